"""`python -m server export FILE`: writes episodes as JSONL or Parquet, for `datasets`, analysis or another server.

Reads a few episodes at a time, so that memory does not grow with the database and a running server is not delayed. The
file appears complete or not at all. `server/recording/portable/` defines the records.
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
from server.recording.portable.arrow import arrow_schema
from server.recording.portable.from_rows import read_records
from server.recording.portable.records import EpisodeRecord
from server.store.database import Database
from server.store.tables import EpisodeRow, RewardRow, StepRow
from server.training.rewards import rewards_of

CHUNK = 32
"""Episodes in memory at a time, per row group of Parquet, and per transaction of the import."""
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
FORMS = ("jsonl", "parquet")
STATUSES = ("open", "terminated", "truncated", "closed", "error")


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server export",
        allow_abbrev=False,
        description="Write episodes to a file: one line (JSONL) or row (Parquet) each. docs/data.md lists the fields.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="file to write; replaced if it exists")
    parser.add_argument(
        "--since",
        type=moment,
        metavar="WHEN",
        help="opened at or after: a date, a date with time (UTC by default), or Unix seconds",
    )
    parser.add_argument("--until", type=moment, metavar="WHEN", help="opened before")
    parser.add_argument("--environment", action="append", metavar="NAME", help="of this environment; can be repeated")
    parser.add_argument("--status", action="append", choices=STATUSES, help="with this status; can be repeated")
    parser.add_argument("--min-reward", type=float, metavar="R", help="with a total reward of at least R")
    parser.add_argument("--trainable", action="store_true", help="only episodes that may be trained on")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N episodes, oldest first")
    parser.add_argument("--format", choices=FORMS, help="default: by the file's ending")
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
    """Write the episodes that `query` selects by id and whose total reward suffices, oldest first; return how many."""
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
    """Return the query for the ids of the episodes that pass the filters."""
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
        # Only narrows: the total depends on the rules of the sources, so `export` computes it for each episode.
        query = query.where(
            sa.or_(*(sa.exists().where(row.episode_id == EpisodeRow.id) for row in (StepRow, RewardRow)))
        )
    return query


def form_of(file: Path, asked: str | None) -> str:
    """Return `jsonl` or `parquet`."""
    form = asked or ENDINGS.get(file.suffix.lower())
    if form is None:
        raise BadRequest(f"{file} ends neither in .jsonl nor in .parquet: choose with --format")
    if form == "parquet" and find_spec("pyarrow") is None:
        raise BadRequest("Parquet needs pyarrow: pip install 'upturn[export]', or use .jsonl")
    return form


def explain(error: Exception) -> str:
    """Return the error in one line, with advice if the database is not at the newest revision."""
    if not isinstance(error, sa.exc.DBAPIError):
        return str(error)
    reason = str(error.orig).strip().split("\n")[0]
    known = ("no such table", "no such column", "does not exist")
    outdated = any(words in reason for words in known)
    return f"{reason}: bring the database up to date with `python -m server migrate`" if outdated else reason


class Progress:
    """A counter on stderr, if stderr is a terminal."""

    def __init__(self, done: str) -> None:
        self._done = done
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print(file=sys.stderr)

    def show(self, count: int) -> None:
        """Show the number of episodes."""
        if self._shown:
            print(f"\r{self._done} {count} episodes", end="", file=sys.stderr, flush=True)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Yield a path next to `file` to write to. It replaces `file` if the block succeeds, otherwise it is deleted."""
    part = file.with_name(f"{file.name}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def moment(text: str) -> float:
    """Parse a date, a date with time, or Unix seconds; return Unix seconds."""
    try:
        return float(text)
    except ValueError:
        read = datetime.datetime.fromisoformat(text)
    return (read if read.tzinfo else read.replace(tzinfo=datetime.UTC)).timestamp()


def _existing_database(options: argparse.Namespace) -> Database:
    """Open an existing database without migrating it."""
    url = settings_of(options).resolved_database_url
    file = sa.make_url(url).database if url.startswith("sqlite") else None
    if file and not Path(file).is_file():
        raise NotFound(f"there is no database {file}: pass the server's --data-dir or --database-url")
    return Database(url)


@contextmanager
def _writing(path: Path, form: str) -> Iterator[Callable[[list[EpisodeRecord]], Any]]:
    """Yield a function that writes records in the given format."""
    if form == "jsonl":
        with path.open("wb") as file:
            yield lambda records: file.writelines(record.model_dump_json().encode() + b"\n" for record in records)
        return
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = arrow_schema()
    with ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda records: writer.write_table(pa.Table.from_pylist([r.model_dump() for r in records], schema))
