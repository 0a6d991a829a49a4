"""The file of the index: a SQLite database next to the record, which can be deleted at any time and is then built anew.

It holds nothing that the record does not hold, whatever database that is. A file of another form, or a damaged one, is
replaced by an empty one; `indexer.py` fills it.

Episodes have numbers that sort as their ids do, by time: milliseconds, then a slot among the episodes of that
millisecond, then room for the parts of its text.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

log = logging.getLogger("upturn.index")

FORM = "1"
"""Changes with the tables and with what is written in them."""
PART_BITS, SLOT_BITS = 12, 8
PARTS = 1 << PART_BITS
"""Parts of an episode's text; what does not fit is in the last one."""
LATEST = 4e9
"""Latest time that the index tells apart, in Unix seconds: in 2096."""
WAIT_S = 5.0
"""Longest wait for another connection's lock."""
NAME = "index.db"
_ID = re.compile("ep_([0-9a-f]{12})([0-9a-f]{2})")
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE episode (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, signature TEXT NOT NULL, settled INTEGER NOT NULL,
    status TEXT NOT NULL, environment TEXT, task TEXT, play TEXT, owner TEXT, version INTEGER NOT NULL,
    success INTEGER, reward REAL, turns INTEGER NOT NULL, opened_at REAL NOT NULL, closed_at REAL);
CREATE INDEX episode_opened ON episode (opened_at, environment, version, play, status, success, reward);
CREATE INDEX episode_closed ON episode (closed_at) WHERE closed_at IS NOT NULL;
CREATE TABLE usage (
    number INTEGER NOT NULL, part INTEGER NOT NULL, slot INTEGER NOT NULL, version INTEGER NOT NULL,
    reason TEXT NOT NULL, turns INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (number, part, slot, version, reason)) WITHOUT ROWID;
CREATE INDEX usage_slot ON usage (slot, reason, turns, prompt_tokens, completion_tokens);
CREATE INDEX usage_version ON usage (version, number);
CREATE INDEX usage_reason ON usage (reason, number) WHERE reason <> '';
CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'unicode61 remove_diacritics 2');
"""
SECURE = sqlite3.sqlite_version_info >= (3, 42)
"""Deleted words leave the search tables at once. Older libraries keep them until the tables are merged."""


class Unusable(Exception):
    """The file cannot be opened or created now; the message says why."""


class IndexFile:
    """The file, with one connection for writing and one for each read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def open(self, *, suspect: bool = False) -> bool:
        """Open the file, and replace it if it is missing, old or damaged; return whether it is new.

        Args:
            suspect: check the whole file, since something has failed.

        Raises:
            Unusable: it can neither be opened nor replaced.
        """
        self.close()
        try:
            if self.path.exists():
                with suppress(sqlite3.Error):
                    if self._connect(suspect):
                        return False
                log.info("the index of episodes is of another form or damaged: it is built anew")
            self._remove()
            self._create()
            return True
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise Unusable(f"{self.path}: {error}") from error

    def close(self) -> None:
        """Close the writing connection; open reads end by themselves."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction; it is rolled back if the block fails.

        Raises:
            sqlite3.Error: also if the file is not open.
        """
        with self._lock:
            if self._writer is None:
                raise sqlite3.OperationalError("the index is not open")
            if not self.path.exists():
                raise sqlite3.OperationalError("the file of the index was deleted")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Open a connection that sees one state.

        Raises:
            sqlite3.Error: there is no such file, or it is damaged.
        """
        with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=WAIT_S)) as found:
            found.isolation_level = None
            found.execute("BEGIN")
            yield found

    def empty_log(self) -> None:
        """Empty the write-ahead log, which keeps what was deleted."""
        with self._lock:
            if self._writer is not None:
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def compact(self) -> None:
        """Write the file anew: pages that were split or moved may still hold what was deleted from them."""
        with self._lock:
            if self._writer is not None:
                self._writer.execute("VACUUM")
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    @property
    def size_bytes(self) -> int:
        """Size of the file, without its log; 0 if there is none."""
        return self.path.stat().st_size if self.path.exists() else 0

    def delete(self) -> None:
        """Delete the file."""
        self.close()
        self._remove()

    def _connect(self, suspect: bool) -> bool:
        """Open the file; return whether it has the right form."""
        writer = sqlite3.connect(self.path, timeout=WAIT_S, check_same_thread=False, isolation_level=None)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
                writer.execute(f"PRAGMA {pragma}")
            form = writer.execute("SELECT value FROM meta WHERE name = 'form'").fetchone()
            sound = not suspect or writer.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            if form != (FORM,) or not sound:
                writer.close()
                return False
            writer.execute("UPDATE meta SET value = value")  # Whether it can be written.
        except sqlite3.Error:
            writer.close()
            raise
        self._writer = writer
        return True

    def _create(self) -> None:
        self.path.touch(mode=0o600, exist_ok=False)
        with closing(sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)) as writer:
            writer.executescript(_SCHEMA)
            if SECURE:
                writer.execute("INSERT INTO words(words, rank) VALUES ('secure-delete', 1)")
            writer.execute("INSERT INTO meta VALUES ('form', ?)", (FORM,))
        if not self._connect(suspect=False):
            raise sqlite3.DatabaseError("a new file has another form")

    def _remove(self) -> None:
        for ending in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)


def time_of(at: float | None) -> float:
    """Return a recorded time within what the index can hold: imported episodes may have any."""
    return at if at is not None and 0 <= at <= LATEST else LATEST if at is not None and at > LATEST else 0.0


def number_at(at: float) -> int:
    """Return the smallest number of an episode whose id was made at a Unix time."""
    return int(time_of(at) * 1000) << (SLOT_BITS + PART_BITS)


def number_of(episode_id: str, opened_at: float = 0.0) -> int:
    """Return the number that an id asks for; an id of another form has the one of its time."""
    found = _ID.match(episode_id)
    if found is None or int(found[1], 16) > LATEST * 1000:
        return number_at(opened_at)
    return (int(found[1], 16) << (SLOT_BITS + PART_BITS)) | (int(found[2], 16) << PART_BITS)


def free_number(connection: sqlite3.Connection, wanted: int) -> int:
    """Return the first free number from one on."""
    while connection.execute("SELECT 1 FROM episode WHERE number = ?", (wanted,)).fetchone():
        wanted += PARTS
    return wanted
