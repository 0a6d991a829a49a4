"""A database of every earlier revision, with rows in every table, is upgraded without loss and then served."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

import migrations
from server.store.database import Database
from server.store.tables import PlayRow
from tests.support.live import script, serving, settings_for
from tests.support.old_databases import all_rows, old_database, schema
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.process import ROOT


def revisions() -> list[str]:
    settings = Config()
    settings.set_main_option("script_location", str(ROOT / "migrations"))
    return [one.revision for one in ScriptDirectory.from_config(settings).walk_revisions()][::-1]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


def check_upgrade(url: str, revision: str, home: Path) -> None:
    """Make a database of a revision, upgrade it by starting a server, and compare."""
    model = script(home / "script", "Hello there.")
    before = old_database(url, revision, model)
    database = Database(url)
    assert all_rows(database.reader) == before and all(len(rows) == 2 for rows in before.values())
    migrations.upgrade(database.writer)
    after = all_rows(database.reader)
    if revision < "0007":  # The only values that an upgrade changes: existing agents may still reward.
        for row in before["api_key"]:
            row["scopes"] = ["agent", "reward"]
    for table, rows in before.items():
        kept = [{name: row[name] for name in old if name in row} for old, row in zip(rows, after[table], strict=True)]
        assert kept == [{name: old[name] for name in old if name in after[table][0]} for old in rows], table
    migrations.check(database.writer, PlayRow.metadata)
    shape = schema(database.reader)
    migrations.upgrade(database.writer)
    assert (schema(database.reader), all_rows(database.reader)) == (shape, after), "upgrading twice changes nothing"
    database.close()
    with serving(settings_for(home / "data", model=str(model), database_url=url)) as live:
        for path in ("policies", "runs", "episodes", "schedule", "keys", "promotions"):
            answer = live.http.get(f"/v1/{path}")
            assert answer.status_code in (200, 404, 405), (path, answer.text)
        assert {run.id for run in live.client.runs().data} == {"id-0", "id-1"}
        assert {view.version for view in live.client.policies().data} == {0, 1}
        assert live.client.episode("id-0").turns[0].answer["content"] == "answer 0"


@pytest.mark.parametrize("revision", revisions())
def test_an_older_sqlite_database_is_upgraded_without_loss_and_served(tmp_path: Path, revision: str) -> None:
    check_upgrade(f"sqlite:///{tmp_path / 'old.db'}", revision, tmp_path)


@pytest.mark.postgres
@pytest.mark.parametrize("revision", revisions())
def test_an_older_postgresql_database_is_upgraded_without_loss_and_served(
    tmp_path: Path, revision: str, postgres: PostgresServer
) -> None:
    admin = Database(postgres.url)
    with admin.reader.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"CREATE DATABASE of_{revision}"))
    admin.close()
    check_upgrade(postgres.url.removesuffix("postgres") + f"of_{revision}", revision, tmp_path)


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'upturn.db'}")
    migrations.upgrade(database.writer)
    with database.writer.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    for command in (["serve", "--port", "0"], ["migrate"], ["keys", "list"]):
        done = subprocess.run(
            [sys.executable, "-m", "server", *command, "--data-dir", str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and "revision 9999" in done.stderr and "Traceback" not in done.stderr
