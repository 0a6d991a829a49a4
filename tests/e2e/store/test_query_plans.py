"""How the databases search on the hot path: by an index, reading few rows, without sorting them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import migrations
from server.recording.idle import silent
from server.recording.matching import candidates
from server.recording.recorder import Span
from server.recording.replay import with_digest, with_key
from server.store.database import Database
from server.store.statistics import Statistics
from server.store.tables import ConversationEndRow, EpisodeRow, NodeRow, TurnRow
from tests.support.portable import ASK, Scribe
from tests.support.postgres import running_postgres

HASH = "0" * 32
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
}


def plan(connection: sa.Connection, query: Any) -> str:
    sql = query.compile(connection, compile_kwargs={"render_postcompile": True, "literal_binds": True})
    how = "explain query plan " if connection.dialect.name == "sqlite" else "explain "
    return "\n".join(str(row[-1]) for row in connection.exec_driver_sql(how + str(sql).replace("%", "%%")))


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Connection]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('plans') / 'upturn.db'}")
    migrations.upgrade(database.writer)
    with database.reader.connect() as connection:
        yield connection
    database.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[sa.Connection]:
    with running_postgres() as server:
        database = Database(server.url)
        migrations.upgrade(database.writer)
        with database.reader.connect() as connection:
            # The tables are empty: a plan that needs neither a scan nor a sort is chosen if there is one.
            for way in ("seqscan", "sort", "bitmapscan"):
                connection.exec_driver_sql(f"set enable_{way} = off")
            yield connection
        database.close()


async def test_the_statistics_of_recorded_tables_are_kept(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'upturn.db'}")
    migrations.upgrade(database.writer)
    scribe = Scribe(database)
    for _ in range(20):
        await scribe.turn(await scribe.open(), ASK, [Span(0, [1], [-0.5])])
    await Statistics(database, scribe.writer).refresh()
    with database.reader.connect() as connection:
        kept = set(connection.exec_driver_sql("select tbl from sqlite_stat1").scalars())
    assert {"episode", "turn", "node"} <= kept
    scribe.writer.close()
    database.close()


@pytest.mark.parametrize("name", QUERIES)
def test_sqlite_searches_by_an_index_and_sorts_nothing(sqlite: sa.Connection, name: str) -> None:
    steps = plan(sqlite, QUERIES[name])
    assert re.findall(r"^SCAN (?!asked|\d+ CONSTANT).*", steps, re.MULTILINE) == [], steps
    assert "TEMP B-TREE" not in steps, steps


@pytest.mark.postgres
@pytest.mark.parametrize("name", QUERIES)
def test_postgresql_searches_by_an_index_and_sorts_nothing(postgres: sa.Connection, name: str) -> None:
    steps = plan(postgres, QUERIES[name])
    assert re.findall(r"Seq Scan.*|\bSort\b.*", steps) == [], steps
