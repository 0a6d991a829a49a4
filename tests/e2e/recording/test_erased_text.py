"""An erased episode leaves none of its text in the data directory, in whatever form it was recorded."""

from __future__ import annotations

import time
from pathlib import Path

import sqlalchemy as sa

from env_adapters import environment_spec
from server.recording.tokens import pack_ids
from server.store.tables import ScoreRow, ShadowRow, TurnRow
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import EpisodeClose, EpisodeOpen, RewardRequest

MARK = "marker-7f3a"
TOKENS = pack_ids(list(MARK.encode()))[4:-4]
"""The same as recorded token ids: the scripted engine's tokens are bytes."""


def holding(directory: Path) -> list[str]:
    """Return the files that hold the mark, as text or as token ids."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path.name for path in files if MARK.encode() in (data := path.read_bytes()) or TOKENS in data]


def record(live: Live) -> list[str]:
    """Record the mark everywhere an episode can hold it; return the episodes."""
    task = environment_spec("textcraft").tasks("train")[0]
    talk = live.client.open_episode(EpisodeOpen(metadata={"note": MARK}, group=f"{MARK}-group"))
    ask = [{"role": "user", "content": f"Keep {MARK}"}]
    tool = {"type": "function", "function": {"name": "f", "description": MARK, "parameters": {"type": "object"}}}
    live.openai(key=talk.key, default_headers={"idempotency-key": MARK}).chat.completions.create(
        model="policy", messages=ask, tools=[tool]
    )
    live.client.reward(talk.id, RewardRequest(value=1.0, source=MARK, key=MARK))
    played = live.client.open_episode(EpisodeOpen(environment="textcraft", task=task))
    live.client.step(played.id, f"get {MARK}")

    def judge(session: sa.orm.Session) -> None:
        turn = session.scalars(sa.select(TurnRow).where(TurnRow.episode_id == talk.id)).one()
        session.add(
            ScoreRow(
                episode_id=talk.id,
                scorer="judge",
                state="scored",
                attempts=1,
                detail=f"because {MARK}",
                updated_at=time.time(),
            )
        )
        session.add(
            ShadowRow(
                id="sh_1", turn_id=turn.id, version=0, token_ids=pack_ids(list(MARK.encode())), text=MARK,
                same_tokens=0, served_tokens=1, created_at=time.time(),
            )
        )  # fmt: skip

    live.parts.writer.submit(judge).result()
    live.client.close_episode(talk.id, EpisodeClose(reason=MARK).reason)
    return [talk.id, played.id]


def test_erasing_reaches_the_database_its_log_and_every_other_file(tmp_path: Path) -> None:
    model = script(tmp_path / "script", f"I keep {MARK}.")
    data = tmp_path / "data"
    with serving(settings_for(data, model=str(model))) as live:
        episodes = record(live)
        assert "upturn.db-wal" in holding(data), "this test would prove nothing"
        for episode_id in episodes:
            live.client.erase_episode(episode_id)
        assert holding(data) == []
    assert holding(data) == []


def test_text_that_has_left_the_log_is_overwritten_in_the_database(tmp_path: Path) -> None:
    model = script(tmp_path / "script", f"I keep {MARK}.")
    data = tmp_path / "data"
    with serving(settings_for(data, model=str(model))) as live:
        episodes = record(live)
    assert "upturn.db" in holding(data)
    with serving(settings_for(data, model=str(model))) as live:
        for episode_id in episodes:
            live.client.erase_episode(episode_id)
        assert holding(data) == []


def test_a_reader_of_the_old_state_delays_nothing_for_long(tmp_path: Path) -> None:
    model = script(tmp_path / "script", f"I keep {MARK}.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        episodes = record(live)
        with live.parts.database.read() as session:
            session.scalars(sa.select(TurnRow)).all()
            assert not live.parts.database.empty_log()
            live.client.open_episode(EpisodeOpen())
        for episode_id in episodes:
            live.client.erase_episode(episode_id)
        assert holding(tmp_path / "data") == []
