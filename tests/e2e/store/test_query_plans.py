"""How the databases search on the hot path and in the background: by an index, reading few rows, without sorting them.

An empty PostgreSQL is told to avoid both: a plan without them is chosen if there is one. SQLite chooses by itself,
empty and filled.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import migrations
from server.feedback.due import never_attempted
from server.recording.idle import silent
from server.recording.matching import candidates
from server.recording.recorder import Span
from server.recording.replay import with_digest, with_key
from server.rewards.live import Window, matured
from server.rewards.rules import Rules
from server.store.database import Database
from server.store.statistics import Statistics
from server.store.tables import ConversationEndRow, EpisodeRow, NodeRow, PlayRow, RewardRow, TurnRow
from server.store.writer import Writer
from server.training.data.live_episodes import LiveSearch, group_ends, group_starts, last_ended
from server.training.scheduling.activity import live_turns, newly
from tests.support.portable import ASK, Scribe
from tests.support.postgres import running_postgres
from tests.support.runs.filled import fill
from upturn.wire import LivePlan, RewardRule, RunConfig

HASH = "0" * 32


def search(**plan: Any) -> LiveSearch:
    """Return the search for a run's live episodes."""
    rules = Rules({"blocked": RewardRule(blocked=True)})
    return LiveSearch(RunConfig(algorithm="reinforce_pp", steps=1), LivePlan(**plan), rules, 1, 2.0, "run_1")


QUERIES: dict[str, sa.Executable] = {
    "the client's id of a conversation": candidates.with_key(HASH),
    "ids that come back": candidates.of_turns(("turn_1", "turn_2"), "owner"),
    "the episodes after an ended one": candidates.successors("ep_1"),
    "ends, as rendered": candidates.ends_of("exact").params(hash=HASH, most=64),
    "ends, as they seldom change": candidates.ends_of("loose").params(hash=HASH, most=64),
    "which beginnings are recorded": candidates.recorded(2).bindparams(e0=HASH, l0=HASH, e1=HASH, l1=HASH),
    "an idempotency key": with_key("key", "owner", None),
    "an idempotency key in an episode": with_key("key", "owner", "ep_1"),
    "a retry": with_digest(HASH, "owner", None, 0.0),
    "a retry in an episode": with_digest(HASH, "owner", "ep_1", 0.0),
    "an episode's turns": sa.select(TurnRow.index, TurnRow.choice).where(TurnRow.episode_id == "ep_1"),
    "an episode's tokens": sa.select(NodeRow).where(NodeRow.episode_id == "ep_1"),
    "an episode's key": sa.select(EpisodeRow.id).where(EpisodeRow.key_hash.in_([HASH])),
    "the next free index": sa.select(sa.func.max(TurnRow.index)).where(TurnRow.episode_id == "ep_1"),
    "a continued turn": sa.update(ConversationEndRow).where(ConversationEndRow.turn_id == "turn_1").values(state=1),
    "the end of an episode": sa.update(ConversationEndRow)
    .where(ConversationEndRow.episode_id == "ep_1")
    .values(state=0),
    "silent episodes": silent(1.0, "ep_1"),
    "expired episodes": sa.select(EpisodeRow.id)
    .where(EpisodeRow.status.in_(("terminated", "truncated", "closed", "error")), EpisodeRow.closed_at < 1.0)
    .limit(20),
    "a batch's live episodes": last_ended(search().conditions()),
    "a batch's further live episodes": last_ended(search().conditions(), EpisodeRow(id="ep_1", closed_at=1.0)),
    "a batch's live episodes that are not stale": last_ended(
        [*search(max_age_s=1.0).conditions(), EpisodeRow.closed_at >= 1.0]
    ),
    "a batch's live episodes that few runs used": last_ended(search(unused_only=False, max_reuse=3).conditions()),
    "rewards since a promotion": matured(1, Window(1.0, 2.0, 3600.0), RewardRow.source != "blocked").limit(200),
    "rewards after the last check": matured(1, Window(1.0, 2.0, 3600.0, after_id="ep_1"), sa.true()).limit(200),
    "rewards before a promotion": matured(1, Window(0.0, 1.0, 3600.0, newest_first=True), sa.true()).limit(200),
    "scored episodes": sa.select(EpisodeRow.id).where(*search().conditions()).limit(32),
    "the newest live turn": live_turns(1e9).limit(1),
    "what a scorer has to score": never_attempted("judge", 1.0).limit(32),
}
GATHERED: dict[str, sa.Executable] = {
    "newly scored episodes": sa.select(EpisodeRow.id).where(*search().conditions(), *newly(search(), 1.0)).limit(32),
    "the groups of live episodes": group_starts(["a", "b"]),
    "the further plays of a batch": sa.select(PlayRow).where(PlayRow.batch_id == "batch_1").order_by(PlayRow.id),
    "the ends of groups of live episodes": group_ends(["a", "b"]),
}
"""These may sort what an index has found."""


def plan(connection: sa.Connection, query: Any) -> str:
    if connection.dialect.name == "sqlite":
        asked = query.compile(connection, compile_kwargs={"render_postcompile": True})
        values = asked.construct_params()
        given = tuple(values[name] for name in asked.positiontup)
        steps = connection.exec_driver_sql(f"explain query plan {asked}", given)
    else:
        sql = query.compile(connection, compile_kwargs={"render_postcompile": True, "literal_binds": True})
        steps = connection.exec_driver_sql("explain " + str(sql).replace("%", "%%"))
    return "\n".join(str(row[-1]) for row in steps)


@pytest.fixture(scope="module", params=[0, 4_000], ids=["empty", "filled"])
def sqlite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Connection]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('plans') / 'upturn.db'}")
    migrations.upgrade(database.writer)
    fill(database, turns=request.param)
    asyncio.run(refresh(database))
    with database.reader.connect() as connection:
        yield connection
    database.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[sa.Connection]:
    with running_postgres() as server:
        database = Database(server.url)
        migrations.upgrade(database.writer)
        with database.reader.connect() as connection:
            for way in ("seqscan", "sort", "bitmapscan"):
                connection.exec_driver_sql(f"set enable_{way} = off")
            yield connection
        database.close()


async def refresh(database: Database) -> None:
    writer = Writer(database.writer)
    await Statistics(database, writer).refresh()
    writer.close()


async def test_the_statistics_of_recorded_tables_are_kept(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'upturn.db'}")
    migrations.upgrade(database.writer)
    scribe = Scribe(database)
    for _ in range(20):
        await scribe.turn(await scribe.open(), ASK, [Span(0, [1], [-0.5])])
    with database.reader.connect() as connection:
        schemas = {connection.exec_driver_sql("pragma schema_version").scalar()}
        for _ in range(2):
            connection.rollback()
            await Statistics(database, scribe.writer).refresh()
            schemas.add(connection.exec_driver_sql("pragma schema_version").scalar())
        assert len(schemas) == 3, "a connection that is already open reads them too"
        kept = set(connection.exec_driver_sql("select tbl from sqlite_stat1").scalars())
    assert {"episode", "turn", "node"} <= kept
    scribe.writer.close()
    database.close()


@pytest.mark.parametrize("name", [*QUERIES, *GATHERED])
def test_sqlite_searches_by_an_index_and_sorts_nothing(sqlite: sa.Connection, name: str) -> None:
    steps = plan(sqlite, (QUERIES | GATHERED)[name])
    assert re.findall(r"^SCAN (?!asked|\d+ CONSTANT).*", steps, re.MULTILINE) == [], steps
    assert name in GATHERED or "TEMP B-TREE" not in steps, steps


@pytest.mark.postgres
@pytest.mark.parametrize("name", [*QUERIES, *GATHERED])
def test_postgresql_searches_by_an_index_and_sorts_nothing(postgres: sa.Connection, name: str) -> None:
    steps = plan(postgres, (QUERIES | GATHERED)[name])
    assert re.findall(r"Seq Scan.*" if name in GATHERED else r"Seq Scan.*|\bSort\b.*", steps) == [], steps
