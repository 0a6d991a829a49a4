"""`python -m server backup DIR`: database, weights and learner checkpoints of a server, which may be running.

The database is copied first, as one consistent state. Then the weights of the versions that it calls ready follow: they
never change, and a version published in the meantime is not in the copy. A version deleted in the meantime is recorded
as retired. The directory appears complete or not at all: it is renamed from `DIR.unfinished` at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

import migrations
from server.commands.database import open_existing_database
from server.commands.export import Progress
from server.commands.failures import explain
from server.errors import BadRequest, UpturnError
from server.settings import Settings
from server.store.copying import copy_rows, copy_sqlite, one_file
from server.store.database import Database, sqlite_file
from server.versions import portable
from upturn import __version__

FORMAT = 1
MANIFEST, DATABASE, FILES = "backup.json", "upturn.db", "data"
CHECKPOINTS = "learner"
"""Folder of the data directory in which the server's own learner keeps its checkpoints."""
ATTEMPTS = 5
UNFINISHED = ".part"  # Ending of a checkpoint that is being written.


def run(settings: Settings, *, directory: Path) -> int:
    """Back up; return the exit code."""
    try:
        database = open_existing_database(settings)
        try:
            facts = back_up(database, settings.data_dir.absolute(), directory)
        finally:
            database.close()
    except KeyboardInterrupt:
        print("backup: interrupted; nothing is kept", file=sys.stderr)
        return 130
    except (UpturnError, migrations.UnknownRevision, OSError, sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        full = isinstance(error, sqlite3.Error | sa.exc.SQLAlchemyError) and "is full" in str(error)
        said = f"the disk of {directory} is full: free space, or name another directory"
        print(f"backup: {said if full else explain(error, settings)}", file=sys.stderr)
        return 1
    size = sum(file["bytes"] for file in facts["files"].values())
    print(f"{directory}: {len(facts['versions'])} versions, {len(facts['files'])} files, {size / 2**20:.1f} MiB")
    return 0


def back_up(database: Database, data_dir: Path, directory: Path) -> dict[str, Any]:
    """Write a backup; return its manifest.

    Raises:
        BadRequest: the directory exists, the database is at an older revision, or weights are missing.
        migrations.UnknownRevision: a newer version of this project made the database.
        OSError: the disk is full, or a file cannot be read.
    """
    if directory.exists() or directory.is_symlink():
        raise BadRequest(f"{directory} exists: name a new directory")
    revision = migrations.known_revision(database.reader)
    if revision != migrations.newest_revision():
        raise BadRequest(
            f"the database is at revision {revision}, not {migrations.newest_revision()}: bring it up to date with "
            "`python -m server migrate`"
        )
    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # Left by a backup that was killed.
    unfinished.mkdir(mode=0o700, parents=True)
    try:
        for attempt in range(ATTEMPTS):
            state = _copy_state(database, data_dir, unfinished, last=attempt == ATTEMPTS - 1)
            if state is not None:
                break
        _copy_checkpoints(data_dir, unfinished / FILES)
        with Progress("hashed", "files") as progress:
            files = {}
            for count, path in enumerate(sorted(_files(unfinished)), start=1):
                files[path.relative_to(unfinished).as_posix()] = facts_of(path)
                progress.show(count)
        facts = {
            "format": FORMAT,
            "version": __version__,
            "revision": revision,
            "created_at": time.time(),
            "data_dir": str(data_dir),
            **(state or {}),
            "files": files,
        }
        (unfinished / MANIFEST).write_text(json.dumps(facts, indent=1))
        _sync(unfinished)
        unfinished.rename(directory)
        return facts
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def facts_of(path: Path) -> dict[str, Any]:
    """Return a file's size and SHA-256."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _copy_state(database: Database, data_dir: Path, target: Path, *, last: bool) -> dict[str, Any] | None:
    """Copy the database, then the weights it needs; return facts, or None if needed ones were deleted meanwhile."""
    copy = target / DATABASE
    copy.unlink(missing_ok=True)
    file = sqlite_file(database.url)
    if file is not None:
        copy_sqlite(file, copy)
    taken = Database(f"sqlite:///{copy}")
    try:
        if file is None:
            migrations.upgrade(taken.writer)
            copy_rows(database.reader, taken.writer)
        with Session(taken.writer) as session, session.begin():
            needed, kept = portable.needed_versions(session), portable.kept_weights(session)
            missing = set()
            with Progress("copied", "versions") as progress:
                for count, (version, path) in enumerate(kept.items(), start=1):
                    if not path.is_relative_to(data_dir):
                        raise BadRequest(f"the weights of version {version} are outside the data directory: {path}")
                    if not _copy_tree(path, target / FILES / path.relative_to(data_dir)):
                        missing.add(version)
                    progress.show(count)
            if missing & needed and not last:
                return None
            if missing & needed:
                raise BadRequest(
                    f"the weights of version {min(missing & needed)} are missing: {kept[min(missing & needed)]}"
                )
            portable.retire(session, missing)
            base = portable.base_path(session)
    finally:
        taken.close()
    one_file(copy)
    return {"base": base, "versions": sorted(kept.keys() - missing)}


def _copy_checkpoints(data_dir: Path, target: Path) -> None:
    """Copy the learner's finished checkpoints; it may delete an old one meanwhile."""
    for state in sorted((data_dir / CHECKPOINTS).rglob("state.json")):
        if not state.parent.name.endswith(UNFINISHED):
            _copy_tree(state.parent, target / state.parent.relative_to(data_dir))


def _copy_tree(source: Path, target: Path) -> bool:
    """Copy a directory whose files never change; return False, and leave nothing, if it is deleted meanwhile."""
    if target.exists():
        return True
    try:
        shutil.copytree(source, target, copy_function=_copy_file)
    except (FileNotFoundError, shutil.Error):
        shutil.rmtree(target, ignore_errors=True)
        if source.exists():
            raise
        return False
    return True


def _copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())


def _sync(directory: Path) -> None:
    """Make sure that all files are on disk before the backup gets its name."""
    for path in _files(directory):
        with path.open("rb") as file:
            os.fsync(file.fileno())
