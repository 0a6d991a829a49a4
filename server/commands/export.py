"""`python -m server export FILE`: writes episodes as JSONL or Parquet, for `datasets`, analysis or another server.

Reads a few episodes at a time, so memory does not grow with the database and a running server is not blocked. The file
appears complete or not at all. `server/recording/portable/` says what a record is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import migrations
from server.commands.database import open_existing_database
from server.errors import BadRequest, UpturnError
from server.recording.portable.arrow import arrow_schema
from server.recording.portable.from_rows import read_records
from server.recording.portable.records import EpisodeRecord
from server.rewards.totals import rewards_of
from server.settings import Settings
from server.store.database import Database
from server.store.tables import EpisodeRow, RewardRow, StepRow
from upturn.packages import INSTALL

CHUNK = 32
"""Episodes in memory at once; also the size of a Parquet row group and of an import's transaction."""
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


def run(
    settings: Settings,
    *,
    file: Path,
    since: float | None = None,
    until: float | None = None,
    environments: Sequence[str] = (),
    statuses: Sequence[str] = (),
    trainable: bool = False,
    min_reward: float | None = None,
    limit: int | None = None,
    file_format: str | None = None,
) -> int:
    """Export; return the exit code.

    Args:
        settings: say where the database is.
        file: file to write.
        since: Unix time at or after which an episode opened.
        until: Unix time before which an episode opened.
        environments: their names; empty is any.
        statuses: empty is any.
        trainable: only episodes that may be trained on.
        min_reward: minimum total reward.
        limit: maximum number of episodes, oldest first.
        file_format: `jsonl` or `parquet`; None decides by the file's ending.
    """
    query = query_of(since, until, environments, statuses, trainable, rewarded=min_reward is not None)
    try:
        form = form_of(file, file_format)
        database = open_existing_database(settings)
        try:
            migrations.known_revision(database.reader)
            count = export(database, file, form, query, limit, min_reward)
        finally:
            database.close()
    except KeyboardInterrupt:
        print("export: interrupted; no file was written", file=sys.stderr)
        return 130
    except (UpturnError, migrations.UnknownRevision, OSError, sa.exc.DBAPIError) as error:
        print(f"export: {explain(error)}", file=sys.stderr)
        return 1
    print(f"{count} episodes in {file}")
    return 0


def export(
    database: Database,
    file: Path,
    form: str,
    query: sa.Select[str],
    limit: int | None = None,
    min_reward: float | None = None,
) -> int:
    """Write the selected episodes with at least `min_reward`, oldest first; return how many were written."""
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


def query_of(
    since: float | None,
    until: float | None,
    environments: Sequence[str],
    statuses: Sequence[str],
    trainable: bool,
    rewarded: bool,
) -> sa.Select[str]:
    """Return the ids of the episodes that match every filter."""
    query = sa.select(EpisodeRow.id)
    if since is not None:
        query = query.where(EpisodeRow.opened_at >= since)
    if until is not None:
        query = query.where(EpisodeRow.opened_at < until)
    if environments:
        query = query.where(EpisodeRow.environment.in_(environments))
    if statuses:
        query = query.where(EpisodeRow.status.in_(statuses))
    if trainable:
        query = query.where(EpisodeRow.trainable)
    if rewarded:
        # The total depends on the rules of sources: `export` computes it per episode.
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
        raise BadRequest(f"Parquet needs the package pyarrow, which is not installed: {INSTALL}, or write .jsonl")
    return form


def explain(error: Exception) -> str:
    """Return the error in one line, with advice if the database is not at the newest revision."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if not isinstance(error, sa.exc.DBAPIError):
        return str(error)
    reason = str(error.orig).strip().split("\n")[0]
    known = ("no such table", "no such column", "does not exist")
    outdated = any(words in reason for words in known)
    return f"{reason}: bring the database up to date with `python -m server migrate`" if outdated else reason


class Progress:
    """A counter line on stderr if stderr is a terminal."""

    def __init__(self, done: str, things: str = "episodes") -> None:
        self._done, self._things = done, things
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print(file=sys.stderr)

    def show(self, count: int) -> None:
        """Update the counter."""
        if self._shown:
            print(f"\r{self._done} {count} {self._things}", end="", file=sys.stderr, flush=True)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Yield a path next to `file` to write to; it replaces `file` if the block succeeds, and is deleted otherwise."""
    part = file.with_name(f"{file.name}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path, form: str) -> Iterator[Callable[[list[EpisodeRecord]], Any]]:
    """Yield a function that writes records in one of the two formats."""
    if form == "jsonl":
        with path.open("wb") as file:
            yield lambda records: file.writelines(record.model_dump_json().encode() + b"\n" for record in records)
        return
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = arrow_schema()
    with ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda records: writer.write_table(pa.Table.from_pylist([r.model_dump() for r in records], schema))
