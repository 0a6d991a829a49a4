"""The audit's figures of recorded episodes, of every shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import migrations
from server.store.database import Database
from server.store.tables import EpisodeRow, PlayRow, RewardRow, RewardSourceRow, StepRow, TurnRow
from server.training.judging.audit.episodes import EpisodeFigures, read_episodes
from tests.support.postgres import running_postgres

LONG = "x" * 5000


def call(arguments: str = '{"number": 1}') -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": "add", "arguments": arguments}}


def add(session: Session, name: str, *answers: dict[str, Any], task: str = "t", success: bool | None = True) -> None:
    """Add an episode of the play `p` with a turn for each answer."""
    session.add(
        EpisodeRow(
            id=name,
            status="terminated",
            environment="game",
            task=task,
            seed=0,
            horizon=9,
            play_id="p",
            purpose="evaluation",
            policy_version=0,
            trainable=False,
            success=success,
            details={},
            opened_at=0.0,
        )
    )
    for number, answer in enumerate(answers):
        session.add(
            TurnRow(
                id=f"{name}-{number}",
                episode_id=name,
                index=number,
                digest="d",
                messages=[],
                answer={"role": "assistant", **answer},
                finish_reason="stop",
                prompt_tokens=1,
                completion_tokens=10,
                policy_version=0,
                temperature=1.0,
                trainable=False,
                forked=False,
                duration_ms=1.0,
                created_at=0.0,
            )
        )


def step(name: str, index: int, reward: float = 0.0, **info: Any) -> StepRow:
    return StepRow(
        episode_id=name,
        index=index,
        action="a",
        observation="o",
        reward=reward,
        terminated=False,
        truncated=False,
        info=info,
        created_at=0.0,
    )


def given(number: int, name: str, source: str, value: float) -> RewardRow:
    return RewardRow(id=f"r{number}", episode_id=name, value=value, source=source, created_at=0.0)


def fill(session: Session) -> None:
    session.add(PlayRow(id="p", state="done", request={}, created_at=0.0))
    session.flush()
    add(session, "e0-empty", success=None)
    add(session, "e1-plain", {"content": "go"}, {"content": "\0 \\u0000 Where to?"}, {"content": None})
    add(
        session, "e2-called", {"content": None, "tool_calls": [call()]}, {"content": "Let me see."}, {"content": "done"}
    )
    add(session, "e3-broken", {"content": "<tool_call>{"}, {"content": "", "tool_calls": [call("[1]")]})
    add(session, "e4-silent", {"content": "I only talk"}, {"content": f"{LONG} Or not?"})
    add(session, "e5-other-task", {"content": "go"}, task="not asked for")
    add(session, "e6-judged", {"content": "go", "reasoning_content": "round and round we go, " * 20})
    session.flush()
    session.add_all([step("e1-plain", 0, 0.5), step("e1-plain", 1, 0.25, valid=False), step("e1-plain", 2, 0.25)])
    parts: list[Any] = [
        {"tone": 2.0, "form": 0.5},
        {"tone": 1.0, "bad": None, "flag": True, "text": "x"},
        "none",
    ]
    session.add_all([step("e4-silent", n, 3.0, reward_parts=of) for n, of in enumerate(parts)])
    session.add_all([step("e3-broken", n, 0.0, valid=True) for n in range(2)])
    session.add_all([given(0, "e6-judged", "judge", 2.0), given(1, "e6-judged", "judge", 1.0)])
    session.add_all([given(2, "e6-judged", "crowd", 9.0), given(3, "e4-silent", "judge", -1.0)])
    session.add(RewardSourceRow(name="judge", weight=0.5, cap=2.0, blocked=False, set_by="api", changed_at=0.0))
    session.add(RewardSourceRow(name="crowd", weight=1.0, cap=None, blocked=True, set_by="api", changed_at=0.0))


@contextmanager
def filled(url: str) -> Iterator[Database]:
    """Open a database with episodes of every shape."""
    database = Database(url)
    try:
        migrations.upgrade(database.writer)
        with Session(database.writer) as session, session.begin():
            fill(session)
        yield database
    finally:
        database.close()


def read(database: Database, *, tools: bool = True) -> dict[str, EpisodeFigures]:
    with database.read() as session:
        return {e.id.split("-")[1]: e for e in read_episodes(session, "p", ["t"], tools=tools)}


def check(database: Database) -> None:
    found = read(database)
    assert list(found) == ["empty", "plain", "called", "broken", "silent", "judged"]
    empty, plain, called = found["empty"], found["plain"], found["called"]
    assert (empty.success, empty.turns, empty.tokens, empty.steps, empty.reward) == (None, 0, 0, 0, None)
    assert (plain.success, plain.turns, plain.tokens, plain.reward) == (True, 3, 30, 1.0)
    assert (plain.steps, plain.invalid_steps, plain.questions) == (3, 1, 1)
    assert (plain.calls, plain.avoided_calls) == (0, 3)
    assert (called.calls, called.bad_calls, called.avoided_calls) == (1, 0, 1), "the last answer may be text"
    assert (found["broken"].calls, found["broken"].bad_calls, found["broken"].avoided_calls) == (2, 2, 0)
    assert (found["silent"].avoided_calls, found["silent"].questions) == (2, 1), (
        "a question at the end of a long answer"
    )
    assert found["silent"].rewards == {
        "environment": 5.5,
        "environment:tone": 3.0,
        "environment:form": 0.5,
        "judge": -0.5,
    }
    assert found["judged"].rewards == {"judge": 1.0}, "capped, weighted, and without the blocked source"
    assert found["judged"].repetition is not None and found["judged"].repetition > 0.8, "thoughts count"
    assert found["called"].repetition is None and found["plain"].repetition == 0.0
    assert [e.tools for e in read(database, tools=False).values()] == [False] * 6
    assert read(database, tools=False)["broken"].calls == 0


def test_figures_of_episodes_of_every_shape(tmp_path: Path) -> None:
    with filled(f"sqlite:///{tmp_path / 'one.db'}") as database:
        check(database)


@pytest.mark.postgres
def test_figures_are_the_same_on_postgresql() -> None:
    with running_postgres() as server, filled(server.url) as database:
        check(database)


def test_a_play_is_read_in_few_queries_and_without_tokens(tmp_path: Path) -> None:
    with filled(f"sqlite:///{tmp_path / 'one.db'}") as database:
        queries: list[str] = []
        sa.event.listen(database.reader, "before_cursor_execute", lambda *of: queries.append(of[2]))
        read(database)
        few = len(queries)
        with Session(database.writer) as session, session.begin():
            for number in range(100):
                add(session, f"f{number}-more", {"content": LONG})
        queries.clear()
        with database.read() as session:
            found = read_episodes(session, "p", ["t"], tools=True)
        assert len(found) == 106 and len(queries) == few <= 10
        assert not any("token_ids" in query or "turn.messages" in query for query in queries)
