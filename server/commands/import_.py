"""`python -m server import FILE`: reads what `export` wrote into this server's database.

Each record is validated before any of it is written, and a few records share a transaction: a running server is not
blocked, and a damaged file leaves no partial episode. Policy versions keep their numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.orm import Session

from server.commands.database import open_database
from server.commands.export import CHUNK, Progress, explain, form_of
from server.errors import BadRequest, UpturnError
from server.recording.portable.records import EpisodeRecord
from server.recording.portable.to_rows import erase_content, write_record
from server.settings import Settings
from server.store.database import Database
from server.store.tables import EpisodeRow

Numbered = tuple[str, EpisodeRecord]
"""A record's place in the file, such as `line 7`, and the record."""


@dataclass(slots=True)
class Counts:
    """Outcomes of the committed records."""

    new: int = 0
    replaced: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.new} episodes imported, {self.replaced} replaced, {self.skipped} skipped (already there)"


def run(settings: Settings, *, file: Path, file_format: str | None = None, replace: bool = False) -> int:
    """Import; return the exit code."""
    counts, code = Counts(), 0
    try:
        form = form_of(file, file_format)
        database = open_database(settings)
        try:
            import_file(database, file, form, counts, replace=replace)
        finally:
            database.close()
    except KeyboardInterrupt:
        print("import: interrupted; run it again to continue", file=sys.stderr)
        code = 130
    except (UpturnError, OSError, sa.exc.DBAPIError) as error:
        print(f"import: {explain(error)}", file=sys.stderr)
        code = 1
    print(counts)
    return code


def import_file(database: Database, file: Path, form: str, counts: Counts, *, replace: bool = False) -> None:
    """Store the records of a file; `counts` is updated after each transaction.

    Raises:
        BadRequest: names the place of an invalid record. Nothing of its transaction is stored.
    """
    records = _lines(file) if form == "jsonl" else _rows(file)
    with Progress("read") as progress:
        while chunk := list(islice(records, CHUNK)):
            stored = _store(database, chunk, replace)
            counts.new += stored.new
            counts.replaced += stored.replaced
            counts.skipped += stored.skipped
            progress.show(counts.new + counts.replaced + counts.skipped)


def _store(database: Database, chunk: list[Numbered], replace: bool) -> Counts:
    """Store some records in one transaction."""
    counts = Counts()
    with Session(database.writer) as session, session.begin():
        ids = [record.id for _, record in chunk]
        existing = sa.select(EpisodeRow.id, EpisodeRow.status).where(EpisodeRow.id.in_(ids))
        known = {episode_id: status for episode_id, status in session.execute(existing)}  # noqa: C416
        for place, record in chunk:
            status = known.get(record.id)
            if status is not None and (status == "open" or not replace):
                counts.skipped += 1
                continue
            try:
                if status is not None:
                    erase_content(session, record.id)
                write_record(session, record)
            except (sa.exc.IntegrityError, sa.exc.DataError) as error:
                raise BadRequest(f"{place}: episode {record.id} cannot be stored: {explain(error)}") from error
            known[record.id] = record.status
            counts.new += status is None
            counts.replaced += status is not None
    return counts


def _lines(file: Path) -> Iterator[Numbered]:
    """Read the records of a JSONL file."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _checked(f"line {number}", line)


def _rows(file: Path) -> Iterator[Numbered]:
    """Read the records of a Parquet file."""
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=CHUNK):
                for row in batch.to_pylist():
                    number += 1
                    yield _checked(f"row {number}", row)
    except ValueError as error:  # The base of pyarrow's own errors.
        raise BadRequest(f"{file} is not a readable Parquet file: {error}") from error


def _checked(place: str, data: bytes | dict[str, Any]) -> Numbered:
    try:
        if isinstance(data, bytes):
            return place, EpisodeRecord.model_validate_json(data)
        return place, EpisodeRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{place}: {field and field + ': '}{first['msg']}") from error
