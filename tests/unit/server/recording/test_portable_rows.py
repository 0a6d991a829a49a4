"""An episode that is exported, erased and imported has the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from server.recording.portable.from_rows import read_records
from server.recording.portable.records import JsonMessages, JsonObject
from server.recording.portable.to_rows import write_record
from server.store.tables import EpisodeRow, NodeRow
from tests.support.in_process import chat, opened, rows, running
from tests.support.live import script, settings_for
from upturn.wire import RewardRequest


def chains(nodes: list[NodeRow]) -> list[tuple[Any, ...]]:
    """Return each node with the position of its parent, since imported nodes get new ids."""
    position: dict[int | None, int | None] = {node.id: at for at, node in enumerate(nodes)}
    position[None] = None
    return [
        (n.turn_id, position[n.parent_id], n.token_ids, n.logprobs, n.sampled, n.policy_version, n.chain_hash)
        for n in nodes
    ]


async def test_turns_with_several_answers_and_forks_survive_export_and_import(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "One.", "Second answer.")
    async with running(settings_for(tmp_path / "data", model=str(model))) as parts:
        episode = await opened(parts)
        for said in (("Hi",), ("Hi", "One.", "more"), ("Hi", "One.", "other"), ("rewritten",)):
            for turn in await parts.turns.begin(episode, chat(*said, count=2), 0):
                await turn.answer()
        await parts.turns.demonstrate(episode, [{"role": "user", "content": "show"}], "shown")
        await parts.episodes.reward(episode.id, RewardRequest(value=0.25, turn=1, key="k"))
        await parts.episodes.end(episode, "closed")
        before = chains(rows(parts, NodeRow))
        with parts.database.read() as session:
            (record,) = read_records(session, [episode.id])
        turns = record.turns
        assert [turn.extends for turn in turns] == [None, None, 1, 1, 1, 1, None, None, None]
        assert [turn.forked for turn in turns][4:6] == [True, True]

        def again(session: Any) -> None:
            session.execute(sa.delete(EpisodeRow).where(EpisodeRow.id == episode.id))
            write_record(session, record)

        await parts.writer.write(again)
        with parts.database.read() as session:
            assert read_records(session, [episode.id]) == [record]
        assert chains(rows(parts, NodeRow)) == before


@pytest.mark.parametrize(
    ("text", "is_object", "is_messages"),
    [
        ('{"role": "user"}', True, False),
        ("{}", True, False),
        ("[]", False, True),
        ('[{"role": "user"}, {}]', False, True),
        ('[{"role": "user"}, "Hi"]', False, False),
        ('["Hi"]', False, False),
        ("[[]]", False, False),
        ("null", False, False),
        ('"{}"', False, False),
        ("", False, False),
        ("[" * 100_000, False, False),
    ],
    ids=["object", "no keys", "no messages", "messages", "one text", "texts", "lists", "null", "text", "empty", "deep"],
)
def test_a_record_holds_json_of_the_kind_that_its_column_needs(text: str, is_object: bool, is_messages: bool) -> None:
    for kind, fits in ((JsonObject, is_object), (JsonMessages, is_messages)):
        check = TypeAdapter(kind).validate_python
        if fits:
            assert check(text) == text
        else:
            with pytest.raises(ValidationError):
                check(text)
