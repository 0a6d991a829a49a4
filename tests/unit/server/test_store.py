"""The store: migrations, the one writer, durability."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.orm import Session

import migrations
from server.store.database import Database, new_id
from server.store.tables import PlayRow
from server.store.writer import Many, Writer
from tests.support.old_databases import all_rows, schema


@pytest.fixture
def writer(database: Database):
    made = Writer(database.writer)
    yield made
    made.close()


def play(identity: str) -> PlayRow:
    return PlayRow(id=identity, state="done", request={}, created_at=0.0)


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(PlayRow)) or 0


def test_the_tables_in_the_code_match_the_revisions(database: Database) -> None:
    migrations.check(database.writer, PlayRow.metadata)


def test_migrating_twice_changes_nothing(database: Database, writer: Writer) -> None:
    writer.submit(lambda session: session.add(play("kept"))).result()
    before = schema(database.reader), all_rows(database.reader)
    migrations.upgrade(database.writer)
    assert (schema(database.reader), all_rows(database.reader)) == before and len(before[1]["play"]) == 1


def test_revisions_lose_no_row_and_no_referring_row(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'old.db'}")
    migrations.upgrade(database.writer, "0001")
    rows = {
        "episode": "(id, status, seed, horizon, purpose, policy_version, trainable, details, opened_at) "
        "values ('e', 'open', 0, 1, 'other', 0, 1, '{}', 0)",
        "turn": '(id, episode_id, "index", digest, messages, answer, finish_reason, prompt_tokens, completion_tokens, '
        "temperature, trainable, forked, duration_ms, created_at) "
        "values ('t', 'e', 0, 'd', '[]', '{}', 'stop', 1, 1, 1, 1, 0, 0, 0)",
        "node": "(id, episode_id, turn_id, token_ids, sampled) values (1, 'e', 't', x'00', 1)",
        "run": "(id, state, \"trigger\", config, step, created_at) values ('r', 'done', 't', '{}', 0, 0)",
        "batch": "(id, run_id, step, horizon, state, stats, created_at) values ('b', 'r', 0, 1, 'trained', '{}', 0)",
        "run_episode": "(run_id, episode_id, batch_id) values ('r', 'e', 'b')",
    }
    with database.writer.begin() as connection:
        for table, values in rows.items():
            connection.exec_driver_sql(f"insert into {table} {values}")

    def counts() -> dict[str, int]:
        with database.reader.begin() as connection:
            return {t: connection.exec_driver_sql(f"select count(*) from {t}").scalar_one() for t in rows}

    migrations.upgrade(database.writer)
    assert counts() == dict.fromkeys(rows, 1)
    with migrations.migrating(database.writer) as connection:
        command.downgrade(migrations.config(connection), "0001")
    assert counts() == dict.fromkeys(rows, 1)
    migrations.upgrade(database.writer)
    assert counts() == dict.fromkeys(rows, 1)
    with database.writer.connect() as connection:
        assert connection.exec_driver_sql("pragma foreign_keys").scalar() == 1
    database.close()


def test_sqlite_writes_ahead_enforces_foreign_keys_and_syncs_each_commit(database: Database) -> None:
    with database.writer.connect() as connection:
        read = {
            name: connection.exec_driver_sql(f"pragma {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous")
        }
    assert read == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2}


def test_failed_work_is_rolled_back_without_the_rest_of_its_group(database: Database, writer: Writer) -> None:
    def fails(session: Session) -> None:
        session.add(play("bad"))
        session.flush()
        raise ValueError("no")

    gate, first = busy(writer)
    futures = [writer.submit(work) for work in (lambda s: s.add(play("a")), fails, lambda s: s.add(play("b")))]
    gate.set()
    first.result()
    futures[0].result()
    futures[2].result()
    with pytest.raises(ValueError, match="no"):
        futures[1].result()
    assert count(database) == 2


def test_work_is_reported_only_after_the_commit(database: Database, writer: Writer) -> None:
    writer.submit(lambda session: session.add(play("a"))).result()
    with sqlite3.connect(str(database.url).removeprefix("sqlite:///")) as other:
        assert other.execute("select count(*) from play").fetchone() == (1,)
    other.close()


def test_a_canceled_waiter_does_not_cancel_the_write(database: Database, writer: Writer) -> None:
    async def scenario() -> None:
        gate = threading.Event()
        writer.submit(lambda _: gate.wait())
        waiting = asyncio.create_task(writer.write(lambda session: session.add(play("kept"))))
        await asyncio.sleep(0.05)
        waiting.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())
    writer.close()
    assert count(database) == 1


def test_closing_executes_submitted_work(database: Database) -> None:
    writer = Writer(database.writer)
    for position in range(200):
        writer.submit(lambda session, position=position: session.add(play(f"p{position}")))
    writer.close()
    assert count(database) == 200
    with pytest.raises(RuntimeError, match="closed"):
        writer.submit(lambda _: None)


def busy(writer: Writer) -> tuple[threading.Event, Future[bool]]:
    """Occupy the writer's thread until an event is set, so that works wait together; return the event and the work."""
    begun, gate = threading.Event(), threading.Event()

    def hold(session: Session) -> bool:
        begun.set()
        return gate.wait(10)

    held = writer.submit(hold)
    assert begun.wait(10)
    return gate, held


def test_ids_sort_by_time_and_are_unique() -> None:
    ids = [new_id("ep") for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [i[:15] for i in ids] == sorted(i[:15] for i in ids)


def test_work_of_one_kind_is_executed_together_in_order_with_one_outcome_per_item(
    database: Database, writer: Writer
) -> None:
    sizes: list[int] = []

    def add(session: Session, names: list[str]) -> list[str | ValueError]:
        sizes.append(len(names))
        session.add_all([play(name) for name in names if name != "refused"])
        return [ValueError(name) if name == "refused" else name for name in names]

    gate, held = busy(writer)
    works = [writer.submit(Many(add, name)) for name in ("a", "refused", "b")]
    between = writer.submit(lambda session: count(database))
    last = writer.submit(Many(add, "c"))
    gate.set()
    assert held.result()
    assert [work.exception() or work.result() for work in (works[0], works[2], last)] == ["a", "b", "c"]
    assert isinstance(works[1].exception(), ValueError)
    assert between.result() == 0, "visible before the commit"
    assert sizes == [3, 1], "waiting works of one kind were not executed together"
    assert count(database) == 3


def test_waiting_works_are_executed_by_rank_and_never_past_other_work(database: Database, writer: Writer) -> None:
    order: list[str] = []

    def kind(rank: int, name: str) -> Many[str, str]:
        def add(session: Session, names: list[str]) -> list[str]:
            order.extend(names)
            return names

        return Many(add, name, rank=rank)

    gate, _ = busy(writer)
    works: list[Many[str, str]] = [kind(2, "c1"), kind(0, "a1"), kind(1, "b1"), kind(0, "a2")]
    futures = [writer.submit(work) for work in works]
    between = writer.submit(lambda session: order.append("between"))
    futures += [writer.submit(work) for work in (kind(1, "b2"), kind(0, "a3"))]
    gate.set()
    assert [future.result(10) for future in futures] == ["c1", "a1", "b1", "a2", "b2", "a3"]
    between.result(10)
    assert order == ["a1", "a2", "b1", "c1", "between", "a3", "b2"]


def test_an_item_that_breaks_the_joint_work_fails_alone(database: Database, writer: Writer) -> None:
    def add(session: Session, names: list[str]) -> list[str]:
        if "broken" in names:
            raise RuntimeError("broken")
        session.add_all([play(name) for name in names])
        return names

    gate, _ = busy(writer)
    works = [writer.submit(Many(add, name)) for name in ("a", "broken", "b")]
    gate.set()
    assert [work.exception() is None for work in works] == [True, False, True]
    assert count(database) == 2


@pytest.mark.parametrize("kind", ["reader", "writer"])
def test_a_connection_in_use_while_the_database_is_closed_is_closed_after_its_use(tmp_path: Path, kind: str) -> None:
    database = Database(f"sqlite:///{tmp_path / 'upturn.db'}")
    connection = getattr(database, kind).connect()
    raw = connection.connection.dbapi_connection
    database.close()
    assert connection.execute(sa.text("select 1")).scalar() == 1
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        raw.execute("select 1")
