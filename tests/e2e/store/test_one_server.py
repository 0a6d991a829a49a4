"""A database and a data directory belong to one server; a second one waits, then says who has them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from server.store.exclusive import DatabaseInUse
from server.wiring.store import Store, open_store
from tests.support.live import script, settings_for
from tests.support.postgres import running_postgres
from tests.support.process import ROOT, process
from upturn.client import Client
from upturn.wire import EpisodeOpen


def start(data_dir: Path, *flags: str, command: str = "serve") -> subprocess.Popen[str]:
    """Start a command of the server, and return it without waiting."""
    return subprocess.Popen(
        [sys.executable, "-m", "server", command, "--data-dir", str(data_dir), *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def second(data_dir: Path, model: Path, *flags: str) -> str:
    """Start a second server that may not wait; return what it says when it gives up."""
    flags = ("--port", "0", "--model", str(model), "--engine.kind", "scripted", "--start-wait-s", "0", *flags)
    with start(data_dir, *flags) as other:
        _, said = other.communicate(timeout=120)
    assert other.returncode == 1, said
    return said


def test_a_second_server_is_refused_by_name_and_leaves_the_first_ones_episodes_alone(tmp_path: Path) -> None:
    model, data = script(tmp_path / "script", "Hello there."), tmp_path / "data"
    database = f"sqlite:///{data / 'upturn.db'}"
    with process(data, model, "--engine.kind", "scripted") as (first, url), Client(url) as client:
        opened = client.open_episode(
            EpisodeOpen(environment="textcraft", task=client.tasks("textcraft", "train").tasks[0])
        )
        for refusal in (second(data, model), second(tmp_path / "other", model, "--database-url", database)):
            assert f"process {first.pid} on " in refusal and "Traceback" not in refusal
        assert client.episode(opened.id).status == "open"
        for command in ("migrate", "keys", "export"):  # While it runs.
            flags = {"export": [str(tmp_path / "episodes.jsonl")]}.get(command, [])
            named = ["keys", "list"] if command == "keys" else [command, *flags]
            done = subprocess.run(
                [sys.executable, "-m", "server", *named, "--data-dir", str(data)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr


def test_a_killed_server_leaves_no_lock_and_a_start_waits_for_a_server_that_is_stopping(tmp_path: Path) -> None:
    model, data = script(tmp_path / "script", "Hello there."), tmp_path / "data"
    flags = ("--port", "0", "--model", str(model), "--engine.kind", "scripted", "--no-learner.start")
    with process(data, model, "--engine.kind", "scripted") as (first, _), start(data, *flags) as other:
        assert other.stderr is not None and other.stdout is not None
        line = next(line for line in other.stderr if "waiting" in line)
        assert f"process {first.pid} on " in line and "up to 30 s" in line
        first.kill()
        assert other.stdout.readline().startswith("upturn: http://")
        other.send_signal(signal.SIGTERM)
        other.communicate(timeout=60)


def test_of_servers_that_start_at_the_same_moment_one_serves(tmp_path: Path) -> None:
    model, data = script(tmp_path / "script", "Hello there."), tmp_path / "data"
    flags = ("--port", "0", "--model", str(model), "--engine.kind", "scripted", "--start-wait-s", "0")
    started = [start(data, *flags) for _ in range(3)]
    try:
        lines = [server.stdout.readline() for server in started if server.stdout]
    finally:
        for server in started:
            server.kill()
            server.communicate()
    assert sorted(line.startswith("upturn: http://") for line in lines) == [False, False, True]


@pytest.mark.postgres
def test_a_postgresql_database_and_a_data_directory_belong_to_one_server(tmp_path: Path) -> None:
    with running_postgres() as postgres:
        first = settings_for(tmp_path / "a", database_url=postgres.url, start_wait_s=0)
        store = open_store(first)
        try:
            for other in (
                settings_for(tmp_path / "b", database_url=postgres.url, start_wait_s=0),
                settings_for(tmp_path / "a", start_wait_s=0),
            ):
                with pytest.raises(DatabaseInUse, match=r"in use by process \d+ on \S+ since 20\d\d-"):
                    open_store(other)
            # Its connection dies, and another server takes the database: the first one cannot write.
            with store.database.reader.connect() as connection:
                connection.execute(
                    sa.text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
                )
            taker = open_store(settings_for(tmp_path / "b", database_url=postgres.url, start_wait_s=5))
            with pytest.raises(Exception, match="another server"):
                write(store)
            write(taker)
            taker.close()
            write(store)  # The database is free again.
        finally:
            store.close()


def write(store: Store) -> None:
    with store.database.writer.begin() as connection:
        connection.execute(sa.text("DELETE FROM judgement WHERE false"))
