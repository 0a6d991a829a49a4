"""`python -m server export FILE`: episodes as JSONL or Parquet, for `datasets`, for analysis, or for another server.

Reads a few episodes at a time, so memory does not grow with the database and a running server is not held up. The file
appears whole or not at all. `server/recording/portable.py` says what a record is.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from server.commands.database import add_flags, settings_of
from server.errors import BadRequest, NotFound, UpturnError
from server.recording.portable import EpisodeRecord, arrow_schema, read_records
from server.rewards.totals import rewards_of
from server.store.database import Database
from server.store.tables import EpisodeRow, RewardRow, StepRow

CHUNK = 32
"""Episodes in memory at once; also a row group of Parquet, and a transaction of the import."""
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
FORMS = ("jsonl", "parquet")
STATUSES = ("open", "terminated", "truncated", "closed", "error")


def run(arguments: list[str]) -> int:
    """Export; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server export",
        allow_abbrev=False,
        description="Write episodes to a file: one line (JSONL) or row (Parquet) each. docs/data.md lists the fields.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what to write; replaced where it exists")
    parser.add_argument(
        "--since",
        type=moment,
        metavar="WHEN",
        help="opened at or after: a date, a date with time (UTC unless it says), or Unix seconds",
    )
    parser.add_argument("--until", type=moment, metavar="WHEN", help="opened before")
    parser.add_argument("--environment", action="append", metavar="NAME", help="of this environment; may be repeated")
    parser.add_argument("--status", action="append", choices=STATUSES, help="with this status; may be repeated")
    parser.add_argument("--min-reward", type=float, metavar="R", help="rewarded with at least this in total")
    parser.add_argument("--trainable", action="store_true", help="only those that may be trained on")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N of them, oldest first")
    parser.add_argument("--format", choices=FORMS, help="default: what the file's name ends with")
    add_flags(parser)
    options = parser.parse_args(arguments)
    try:
        form = form_of(options.file, options.format)
        database = _existing_database(options)
        try:
            count = export(database, options.file, form, query_of(options), options.limit, options.min_reward)
        finally:
            database.close()
    except KeyboardInterrupt:
        print("export: interrupted; no file was written", file=sys.stderr)
        return 130
    except (UpturnError, OSError, sa.exc.DBAPIError) as error:
        print(f"export: {explain(error)}", file=sys.stderr)
        return 1
    print(f"{count} episodes in {options.file}")
    return 0


def export(
    database: Database,
    file: Path,
    form: str,
    query: sa.Select[str],
    limit: int | None = None,
    min_reward: float | None = None,
) -> int:
    """Write the episodes whose ids `query` selects and whose reward is enough, oldest first; return how many."""
    last, count = "", 0
    with Progress("exported") as progress, whole_file(file) as part, _writing(part, form) as write:
        while limit is None or count < limit:
            with database.read() as session:
                ids = session.scalars(query.where(EpisodeRow.id > last).order_by(EpisodeRow.id).limit(CHUNK)).all()
                if not ids:
                    break
                last = ids[-1]
                if min_reward is not None:
                    earned = rewards_of(session, ids)
                    ids = [i for i in ids if (reward := earned[i]) is not None and reward >= min_reward]
                ids = ids if limit is None else ids[: limit - count]
                if ids:
                    write(read_records(session, ids))
            count += len(ids)
            progress.show(count)
    return count


def query_of(options: argparse.Namespace) -> sa.Select[str]:
    """Return the ids of the episodes that the filters let through."""
    query = sa.select(EpisodeRow.id)
    if options.since is not None:
        query = query.where(EpisodeRow.opened_at >= options.since)
    if options.until is not None:
        query = query.where(EpisodeRow.opened_at < options.until)
    if options.environment:
        query = query.where(EpisodeRow.environment.in_(options.environment))
    if options.status:
        query = query.where(EpisodeRow.status.in_(options.status))
    if options.trainable:
        query = query.where(EpisodeRow.trainable)
    if options.min_reward is not None:
        # How much it is depends on the rules of sources: `export` looks at each.
        query = query.where(
            sa.or_(*(sa.exists().where(row.episode_id == EpisodeRow.id) for row in (StepRow, RewardRow)))
        )
    return query


def form_of(file: Path, asked: str | None) -> str:
    """Return `jsonl` or `parquet`."""
    form = asked or ENDINGS.get(file.suffix.lower())
    if form is None:
        raise BadRequest(f"{file} ends neither with .jsonl nor with .parquet: say which it is with --format")
    if form == "parquet" and find_spec("pyarrow") is None:
        raise BadRequest("Parquet needs pyarrow: pip install 'upturn[export]', or use .jsonl")
    return form


def explain(error: Exception) -> str:
    """Return what went wrong in one line, and where the database is not at the newest revision, what to do."""
    if not isinstance(error, sa.exc.DBAPIError):
        return str(error)
    reason = str(error.orig).strip().split("\n")[0]
    known = ("no such table", "no such column", "does not exist")
    outdated = any(words in reason for words in known)
    return f"{reason}: bring the database up to date with `python -m server migrate`" if outdated else reason


class Progress:
    """A line on stderr that counts, where stderr is a terminal."""

    def __init__(self, done: str) -> None:
        self._done = done
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print(file=sys.stderr)

    def show(self, count: int) -> None:
        """Say how many episodes are done."""
        if self._shown:
            print(f"\r{self._done} {count} episodes", end="", file=sys.stderr, flush=True)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Give a path beside `file` to write to; it becomes `file` if the block ends well, else it goes."""
    part = file.with_name(f"{file.name}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def moment(text: str) -> float:
    """Read a date, a date with time, or Unix seconds; return Unix seconds."""
    try:
        return float(text)
    except ValueError:
        read = datetime.datetime.fromisoformat(text)
    return (read if read.tzinfo else read.replace(tzinfo=datetime.UTC)).timestamp()


def _existing_database(options: argparse.Namespace) -> Database:
    """Open the database as it is: none is made where none is, and reading migrates nothing."""
    url = settings_of(options).resolved_database_url
    file = sa.make_url(url).database if url.startswith("sqlite") else None
    if file and not Path(file).is_file():
        raise NotFound(f"there is no database {file}: name the server's --data-dir or --database-url")
    return Database(url)


@contextmanager
def _writing(path: Path, form: str) -> Iterator[Callable[[list[EpisodeRecord]], Any]]:
    """Give a function that writes records in one of the two forms."""
    if form == "jsonl":
        with path.open("wb") as file:
            yield lambda records: file.writelines(record.model_dump_json().encode() + b"\n" for record in records)
        return
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = arrow_schema()
    with ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda records: writer.write_table(pa.Table.from_pylist([r.model_dump() for r in records], schema))
