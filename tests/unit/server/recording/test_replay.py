"""A request that is sent again: which recorded answers it gets, and for how long."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import sqlalchemy as sa

from server.errors import Conflict
from server.recording.replay import find_recorded
from server.store.tables import TurnRow
from server.wiring.parts import Parts
from tests.support.in_process import chat, opened, running
from tests.support.live import script, settings_for


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with running(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "One.", "Two.")))) as made:
        yield made


async def answered(parts: Parts, digest: str, key: str | None = None, count: int = 1, owner: str = "me") -> list[str]:
    """Answer a request in an episode of its own; return the ids of its turns."""
    episode = await opened(parts, owner_hash=owner)
    request = chat("Hi", digest=digest, idempotency_key=key, count=count, owner=owner)
    turns = await parts.turns.begin(episode, request, 0)
    return [(await turn.answer()).turn_id for turn in turns]


async def aged(parts: Parts, seconds: float) -> None:
    """Make every turn this old."""
    change = sa.update(TurnRow).values(created_at=time.time() - seconds)
    await parts.writer.write(lambda session: session.execute(change))


def found(
    parts: Parts, digest: str, key: str | None = None, owner: str = "me", episode: str | None = None
) -> list[str]:
    answers = find_recorded(parts.database, digest=digest, key=key, owner=owner, episode_id=episode)
    return [answer.turn_id for answer in answers]


async def test_the_same_request_is_a_retry_for_ten_minutes_and_then_new(parts: Parts) -> None:
    ids = await answered(parts, "d")
    assert found(parts, "d") == ids and found(parts, "other") == []
    await aged(parts, 590)
    assert found(parts, "d") == ids
    await aged(parts, 610)
    assert found(parts, "d") == []


async def test_an_idempotency_key_never_expires_and_belongs_to_one_request_of_one_owner(parts: Parts) -> None:
    ids = await answered(parts, "d", key="k")
    await aged(parts, 10 * 86_400)
    assert found(parts, "d", "k") == ids
    assert found(parts, "d", "k2") == found(parts, "d", "k", owner="you") == []
    with pytest.raises(Conflict, match="was used with another request") as refused:
        found(parts, "other", "k")
    assert refused.value.code == "idempotency_conflict"


async def test_a_retry_gets_the_newest_answers_of_all_choices_in_order(parts: Parts) -> None:
    await answered(parts, "d", count=2)
    ids = await answered(parts, "d", count=3)
    assert found(parts, "d") == ids


async def test_a_retry_that_names_an_episode_finds_only_its_answers(parts: Parts) -> None:
    episode = await opened(parts, owner_hash="you")
    turns = await parts.turns.begin(episode, chat("Hi", digest="d", owner="you"), 0)
    answer = await turns[0].answer()
    assert found(parts, "d", episode=episode.id) == [answer.turn_id]
    assert found(parts, "d", episode="ep_other") == found(parts, "d") == []


async def test_an_answer_that_the_engine_cut_short_is_sampled_again(parts: Parts) -> None:
    ids = await answered(parts, "d")
    await parts.writer.write(lambda session: session.execute(sa.update(TurnRow).values(finish_reason="abort")))
    assert found(parts, "d") == []
    await parts.writer.write(lambda session: session.execute(sa.update(TurnRow).values(finish_reason="length")))
    assert found(parts, "d") == ids


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_deleted_answer_is_not_shown_to_a_retry(parts: Parts, key: str | None) -> None:
    first, second = await answered(parts, "d", key, count=2)
    assert found(parts, "d", key) == [first, second]
    for turn in (first, second):
        assert await parts.turns.hide(turn, owner="me", episode_id=None)
    assert found(parts, "d", key) == []
    with pytest.raises(Conflict) if key else nullcontext():
        assert found(parts, "other", key) == []


async def test_a_recorded_answer_is_the_answer_that_was_sampled(parts: Parts) -> None:
    episode = await opened(parts, owner_hash="me")
    sampled = await (await parts.turns.begin(episode, chat("Hi", digest="d", owner="me"), 0))[0].answer()
    (again,) = find_recorded(parts.database, digest="d", key=None, owner="me", episode_id=None)
    assert again.logprobs == pytest.approx(sampled.logprobs, abs=1e-6)
    for field in ("turn_id", "episode_id", "message", "finish_reason", "prompt_tokens", "token_ids", "version"):
        assert getattr(again, field) == getattr(sampled, field), field
    assert again.first_version == 0 and again.text == "One."
