"""Says in one sentence why a command of the server failed, and what to do."""

from __future__ import annotations

import errno
import sqlite3

import sqlalchemy as sa
from alembic.util.exc import CommandError

from migrations import UnknownRevision
from server.commands.database import Unusable
from server.errors import Unavailable, UpturnError
from server.settings import Settings
from server.store.database import sqlite_file
from server.store.exclusive import DatabaseInUse
from upturn import packages
from upturn.command import failure

OTHER_DATABASE = "name another with --data-dir or --database-url"

NO_URL = "is no URL of SQLite or PostgreSQL, such as postgresql://user:password@host/upturn"


def explain(error: BaseException, settings: Settings) -> str | None:
    """Return the sentence for an expected failure, None for any other."""
    if isinstance(error, Unavailable) and isinstance(error.__cause__, sa.exc.SQLAlchemyError):
        return _database(error.__cause__, settings)
    if isinstance(error, UpturnError):
        return error.message
    if isinstance(error, Unusable | DatabaseInUse | UnknownRevision):
        return str(error)
    if isinstance(error, sa.exc.SQLAlchemyError | sqlite3.Error):
        return _database(error, settings)
    if isinstance(error, OSError):
        return _file(error, settings)
    if isinstance(error, CommandError):
        return f"the database {_name(settings)} cannot be migrated: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name == "psycopg":
        return f"{_name(settings)} needs psycopg: {packages.missing('psycopg')}"
    if isinstance(error, ModuleNotFoundError) and not _supported(settings):
        return f"{_name(settings)} {NO_URL}"
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return (
            f"{settings.model} does not fit into the memory: choose a smaller model, or lower --engine.context-tokens"
        )
    return failure.explain(error)


def _file(error: OSError, settings: Settings) -> str | None:
    """Explain why a file cannot be used."""
    database = sqlite_file(settings.resolved_database_url) if _supported(settings) else None
    if database is not None and str(error.filename) == f"{database}.lock":  # The first file that is opened.
        return (
            f"the database {database} cannot be opened ({error.strerror}): its directory must exist and be writable; "
            f"{OTHER_DATABASE}"
        )
    advice = {
        errno.ENOSPC: "free space, or choose another disk",
        errno.EDQUOT: "free space, or choose another disk",
        errno.EROFS: "make it writable, or choose another directory",
        errno.EACCES: "make it accessible to the user of this process, or choose another directory",
        errno.EPERM: "make it accessible to the user of this process, or choose another directory",
        errno.ENOENT: "create its directory, or name another",
        errno.ENOTDIR: "create its directory, or name another",
    }.get(error.errno or 0)
    said = failure.explain(error)
    return f"{said}: {advice}" if said and advice else said


def _database(error: sa.exc.SQLAlchemyError | sqlite3.Error, settings: Settings) -> str:
    """Explain why the database cannot be used."""
    name = _name(settings)
    if isinstance(error, sa.exc.ArgumentError | sa.exc.NoSuchModuleError):
        return f"{name} {NO_URL}"
    reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
    if "file is not a database" in reason:
        return f"{name} is not a database: {OTHER_DATABASE}"
    if "readonly" in reason or "read-only" in reason:
        return f"the database {name} is read-only: make it writable, or {OTHER_DATABASE}"
    if "unable to open" in reason:
        return f"the database {name} cannot be opened: its directory must exist and be writable; {OTHER_DATABASE}"
    if "locked" in reason:
        return f"the database {name} is locked by another program: end that, or {OTHER_DATABASE}"
    if "is full" in reason or "disk I/O error" in reason or "No space left" in reason:
        return f"the disk of the database {name} is full or fails ({reason}): free space, or {OTHER_DATABASE}"
    if "malformed" in reason:
        return f"the database {name} is damaged ({reason}): restore a backup into a new --data-dir"
    if "password" in reason or "authentication" in reason:
        return f"the database {name} refuses the user or password: {reason}"
    if any(words in reason for words in ("no such table", "no such column", "does not exist")):
        return f"{reason}: bring the database up to date with `python -m server migrate`"
    start = "" if settings.resolved_database_url.startswith("sqlite") else "start it, or "
    return f"the database {name} cannot be used ({reason}): {start}{OTHER_DATABASE}"


def _supported(settings: Settings) -> bool:
    return settings.resolved_database_url.startswith(("sqlite", "postgres"))


def _name(settings: Settings) -> str:
    """Return the database's file, or its URL without the password."""
    url = settings.resolved_database_url
    try:
        made = sa.make_url(url)
    except sa.exc.ArgumentError:
        return repr(url.rpartition("@")[2])
    return made.database or url if url.startswith("sqlite") else made.render_as_string(hide_password=True)
