"""`python -m server restore DIR`: puts a backup into an empty database and data directory, perhaps elsewhere.

Everything is verified before anything is written. Files come first and the database last, so a server cannot start on
half a restore, and a restore that was interrupted is simply run again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

import migrations
from server.commands.backup import DATABASE, FILES, FORMAT, MANIFEST, facts_of
from server.commands.export import Progress
from server.commands.failures import explain
from server.errors import BadRequest, UpturnError
from server.settings import Settings
from server.store.copying import copy_rows, is_empty, one_file
from server.store.database import Database, sqlite_file
from server.store.exclusive import Exclusive
from server.versions import portable


def run(settings: Settings, *, directory: Path, base: Path | None = None) -> int:
    """Restore; return the exit code."""
    try:
        facts = verified(directory)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        database = Database(settings.resolved_database_url, exclusive=True)
        exclusive = Exclusive(database, settings.data_dir)
        try:
            exclusive.take()
            put_back(directory, facts, database, settings.data_dir.absolute(), base)
        finally:
            database.close()
            exclusive.release()
    except KeyboardInterrupt:
        print("restore: interrupted; run it again", file=sys.stderr)
        return 130
    except (UpturnError, migrations.UnknownRevision, OSError, sa.exc.SQLAlchemyError) as error:
        print(f"restore: {explain(error, settings)}", file=sys.stderr)
        return 1
    print(f"{settings.data_dir}: {len(facts['versions'])} versions of {directory}")
    return 0


def verified(directory: Path) -> dict[str, Any]:
    """Return the manifest of a backup after comparing every file with it.

    Raises:
        BadRequest: the directory is no backup, a newer version wrote it, or a file is damaged or missing.
    """
    try:
        facts: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
        known = facts["format"] == FORMAT and {"data_dir", "revision", "versions"} <= facts.keys()
        files: dict[str, Any] = facts["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{MANIFEST} is damaged"
        raise BadRequest(
            f"{directory} is no finished backup ({reason}): name a directory that `upturn backup` wrote"
        ) from error
    if not known or DATABASE not in files:
        raise BadRequest(f"{directory} was written by another version ({facts.get('version')}): use that version")
    with Progress("verified", "files") as progress:
        for count, (name, wanted) in enumerate(files.items(), start=1):
            path = directory / name
            if not path.resolve().is_relative_to(directory.resolve()):
                raise BadRequest(f"{name} is outside the backup")
            if not path.is_file() or facts_of(path) != wanted:
                raise BadRequest(f"{path} is damaged or missing: use another backup")
            progress.show(count)
    return facts


def put_back(directory: Path, facts: dict[str, Any], database: Database, data_dir: Path, base: Path | None) -> None:
    """Write files and database.

    Raises:
        BadRequest: the database is not empty, or another file has the place of one of the backup.
        migrations.UnknownRevision: a newer version of this project wrote the backup.
    """
    file = sqlite_file(database.url)
    if (file is None or file.exists()) and not is_empty(database.reader):
        raise BadRequest("the database is not empty: restore into a new --data-dir and --database-url")
    names = [name for name in facts["files"] if name.startswith(f"{FILES}/")]
    targets = {name: data_dir / Path(name).relative_to(FILES) for name in names}
    for name, target in targets.items():
        if target.exists() and facts_of(target) != facts["files"][name]:
            raise BadRequest(f"{target} exists with other content: restore into a new --data-dir")
    with tempfile.TemporaryDirectory(dir=data_dir, prefix="restore-") as room:
        copy = Path(room) / DATABASE
        shutil.copyfile(directory / DATABASE, copy)
        moved = Database(f"sqlite:///{copy}")
        try:
            migrations.upgrade(moved.writer)
            with Session(moved.writer) as session, session.begin():
                portable.move(session, Path(facts["data_dir"]), data_dir, base)
            _copy_files(directory, targets, Path(room))
            if file is None:
                migrations.upgrade(database.writer)
                copy_rows(moved.reader, database.writer)
                return
        finally:
            moved.close()
        one_file(copy)
        file.parent.mkdir(parents=True, exist_ok=True)
        for leftover in ("-wal", "-shm"):  # Of the empty database that is replaced.
            file.with_name(file.name + leftover).unlink(missing_ok=True)
        finished = file.with_name(file.name + ".restored")
        shutil.copyfile(copy, finished)
        _sync(finished)
        finished.rename(file)


def _copy_files(directory: Path, targets: dict[str, Path], room: Path) -> None:
    with Progress("restored", "files") as progress:
        for count, (name, target) in enumerate(targets.items(), start=1):
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / name, room / "file")
                _sync(room / "file")
                (room / "file").rename(target)
            progress.show(count)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
