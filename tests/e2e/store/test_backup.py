"""A backup of a server that trains, restored elsewhere, serves and trains on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.commands import backup, restore
from server.store.base import Base
from server.store.database import Database
from server.versions import portable
from tests.support.live import Live, script, serving, settings_for
from tests.support.postgres import running_postgres
from tests.support.process import ROOT
from tests.support.runs.scripted import LEARNER, claim, lease, publication, reward_two, says
from upturn.wire import BatchAck, RunClaim


def trained(live: Live, run_id: str, step: int, answer: str) -> int:
    """Carry out one learner step; return the version it publishes."""
    reward_two(live, group=f"g{step}")
    batch = lease(live, run_id, step)
    version = live.client.publish(publication(live, run_id, answer, step=step)).version
    live.client.acknowledge_batch(
        batch.id, BatchAck(learner=LEARNER, state="trained", policy_version=version, metrics={"entropy": 0.5})
    )
    return version


def rows(url: str) -> dict[str, list[Any]]:
    """Return all rows of a database by table, without the paths of weights."""
    database = Database(url)
    with database.reader.connect() as connection:
        found = {
            table.name: [
                tuple(value for name, value in row.items() if name != "path")
                for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
            ]
            for table in Base.metadata.sorted_tables
        }
    database.close()
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the data of a server that has trained one step of two, and its backup."""
    home = tmp_path_factory.mktemp("made")
    settings = settings_for(home / "data", model=str(script(home / "script", "base")))
    with serving(settings) as live:
        run = claim(live, steps=2)
        assert trained(live, run, 0, "first") == 1
        for checkpoint in ("step-000001", "step-000002.part"):
            folder = home / "data" / "learner" / run / checkpoint
            folder.mkdir(parents=True)
            (folder / "state.json").write_text(json.dumps({"step": 1}))
        assert backup.run(settings, directory=home / "backup") == 0
    yield home


def test_a_restored_server_serves_and_trains_on_from_the_same_step(made: Path, tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "elsewhere", model=str(made / "script"))
    assert restore.run(settings, directory=made / "backup") == 0
    (made / "data").rename(made / "gone")  # Nothing may refer to the old place.
    try:
        with serving(settings) as live:
            assert says(live) == ("first", "policy@1")
            (run,) = live.client.runs().data
            assert run.step == 1
            claimed = live.client.claim_run(RunClaim(learner=LEARNER, run_id=run.id))
            assert claimed is not None and trained(live, run.id, 1, "second!") == 2
            assert says(live) == ("second!", "policy@2")
        checkpoints = [path.parent.name for path in (tmp_path / "elsewhere" / "learner").rglob("state.json")]
        assert checkpoints == ["step-000001"], "an unfinished checkpoint is no checkpoint"
    finally:
        (made / "gone").rename(made / "data")


def test_a_restore_overwrites_nothing_and_can_be_repeated(made: Path, tmp_path: Path, capsys: Any) -> None:
    settings = settings_for(tmp_path / "data", model=str(made / "script"))
    assert restore.run(settings, directory=made / "backup") == 0
    assert restore.run(settings, directory=made / "backup") == 1
    assert "not empty" in capsys.readouterr().err
    (tmp_path / "data" / "upturn.db").unlink()  # As if it had been killed before the database.
    assert restore.run(settings, directory=made / "backup") == 0
    (tmp_path / "data" / "upturn.db").unlink()
    (weights,) = (tmp_path / "data" / "versions").rglob("script.json")
    weights.write_text("{}")
    assert restore.run(settings, directory=made / "backup") == 1
    assert "other content" in capsys.readouterr().err and weights.read_text() == "{}"


def test_a_damaged_unfinished_or_foreign_directory_is_not_restored(made: Path, tmp_path: Path, capsys: Any) -> None:
    settings = settings_for(tmp_path / "data")
    copied = tmp_path / "copy"
    subprocess.run(["cp", "-r", made / "backup", copied], check=True)
    facts = json.loads((copied / "backup.json").read_text())
    (weights,) = (name for name in facts["files"] if name.endswith("script.json"))
    for damage in (
        lambda: (copied / weights).write_text("x"),
        lambda: (copied / weights).unlink(),
        lambda: (copied / "backup.json").write_text(json.dumps({**facts, "format": 2})),
        lambda: (copied / "backup.json").write_text("{"),
        lambda: (copied / "backup.json").unlink(),
    ):
        damage()
        assert restore.run(settings, directory=copied) == 1
        assert str(copied) in capsys.readouterr().err
        assert not (tmp_path / "data" / "upturn.db").exists()


def test_a_backup_never_replaces_a_directory_and_a_killed_one_does_not_look_whole(made: Path, tmp_path: Path) -> None:
    settings = settings_for(made / "data")
    (tmp_path / "there").mkdir()
    assert backup.run(settings, directory=tmp_path / "there") == 1
    for delay_s in (0.0, 0.3, 0.8, 1.0, 1.2, 1.5):
        target = tmp_path / f"killed-{delay_s}"
        with subprocess.Popen(
            [sys.executable, "-m", "server", "backup", str(target), "--data-dir", str(made / "data")],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                process.wait(delay_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        if target.exists():
            restore.verified(target)
        assert backup.run(settings, directory=tmp_path / f"again-{delay_s}") == 0


def test_backups_while_versions_are_published_and_deleted_hold_the_weights_of_every_ready_version(
    tmp_path: Path,
) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "base")))
    stop, taken = threading.Event(), []

    def back_up() -> None:
        while not stop.is_set():
            taken.append(tmp_path / f"backup-{len(taken)}")
            assert backup.run(settings, directory=taken[-1]) == 0

    with serving(settings) as live:
        thread = threading.Thread(target=back_up)
        thread.start()
        try:
            run = claim(live, steps=12)
            for step in range(8):
                trained(live, run, step, "x" * (step + 1))
        finally:
            stop.set()
            thread.join(60)
    assert len(taken) > 1
    for directory in taken:
        facts = restore.verified(directory)
        copy = Database(f"sqlite:///{directory / 'upturn.db'}")
        with copy.read() as session:
            kept = portable.kept_weights(session)
            assert portable.needed_versions(session) <= {0, *kept}
        copy.close()
        assert sorted(kept) == facts["versions"]
        for path in kept.values():
            assert (directory / "data" / path.relative_to(settings.data_dir) / "script.json").is_file()


@pytest.mark.postgres
def test_a_backup_moves_between_sqlite_and_postgresql_without_losing_a_value(made: Path, tmp_path: Path) -> None:
    with running_postgres() as postgres:
        there = settings_for(tmp_path / "there", model=str(made / "script"), database_url=postgres.url)
        assert restore.run(there, directory=made / "backup") == 0
        copy = shutil.copy(made / "backup" / "upturn.db", tmp_path / "copy.db")  # Opening it would change it.
        assert rows(postgres.url) == rows(f"sqlite:///{copy}")
        with serving(there) as live:
            assert says(live) == ("first", "policy@1"), "its numbers continue after the copied ones"
            assert backup.run(there, directory=tmp_path / "again") == 0
        back = settings_for(tmp_path / "back", model=str(made / "script"))
        assert restore.run(back, directory=tmp_path / "again") == 0
        assert rows(back.resolved_database_url) == rows(postgres.url)
