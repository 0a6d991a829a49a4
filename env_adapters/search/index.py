"""Finds passages: in a full-text index of a corpus in SQLite (FTS5, BM25), or by URL in a remote `/retrieve`.

An index is built once, kept in the user's cache and opened read-only; many threads and processes can use it, and build
it, at once. FTS5's ranking gets two additions. Only passages with one of a query's rarer words are scored, limited to
`SCORED` passages, which bounds the time of a query (measured on the Factbook: 1.2 ms instead of 2, and 4 instead of 14
for common words). The best of them are reranked by the share of the query that they contain and the share of their
title that the query contains: `Suriname: Population` ranks above `Suriname: Population growth rate`.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import tempfile
import threading
import unicodedata
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from env_adapters.protocol import EnvironmentFailure
from env_adapters.remote.connection import Http, Place
from env_adapters.search.corpus import Corpus, Passage

SCORED = 2000
COMMON = 50_000
"""A word in more passages than this is dropped from a query that has a rarer one."""
RERANKED = 30
TITLE_WEIGHT = 5.0
QUERY_CHARS, QUERY_WORDS = 300, 20
"""Maximum length of a query; the rest is ignored."""
CACHE_KIB = 256
"""Page cache per connection; the system's shared cache holds the rest. SQLite's 2 MiB would cost 64 connections 100 MB
more."""
KNOWN_WORDS = 100_000
"""Maximum number of words whose count is cached."""
_LITTLE = (
    "a an and are as at be been but by did do does for from had has have how in is it its of on or than that "
    "the their them there these they this those to was were what when where which who whom whose why will with"
)
STOP_WORDS = frozenset(_LITTLE.split())
FORM = 1
"""Version of the index format; increased when the tables or their content change."""
_RARE = "AND +rowid IN (SELECT rowid FROM passages WHERE passages MATCH :rare) "
_FIND = (
    "SELECT title, text, bm25(passages, :weight, 1.0) AS score FROM passages WHERE passages MATCH :match "
    f"{_RARE}ORDER BY score, rowid LIMIT :count"
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result; higher scores are better."""

    passage: Passage
    score: float


class Retriever(Protocol):
    """Finds passages; usable by many threads at once."""

    def search(self, query: str, count: int) -> list[Hit]:
        """Return the best passages for a query, best first.

        Raises:
            EnvironmentFailure: the search failed.
        """


def cache_folder() -> Path:
    """Return the directory of the indexes."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "upturn" / "search"


def words(text: str) -> list[str]:
    """Return a text's distinct words in order, in lowercase and without accents."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return list(dict.fromkeys(re.findall(r"\w+", bare)))


def build(corpus: Corpus, folder: Path) -> Path:
    """Return the path of a corpus's index, which is built if it does not exist or is outdated.

    Raises:
        EnvironmentFailure: the corpus cannot be read, or the index cannot be written.
    """
    wanted = f"{FORM}/{corpus.fingerprint()}"
    path = folder / f"{hashlib.sha256(wanted.encode()).hexdigest()[:24]}.sqlite3"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".part", dir=folder)
        os.close(handle)
        try:
            _fill(Path(name), corpus.passages())
            os.replace(name, path)  # Atomic; open connections keep the replaced file.
        finally:
            Path(name).unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise EnvironmentFailure(f"cannot write an index to {folder}: {error}") from error
    return path


def _fill(path: Path, passages: Iterable[Passage]) -> None:
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(title, text, tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        database.executemany("INSERT INTO passages VALUES (?, ?)", ((p.title, p.text) for p in passages))
        database.execute("INSERT INTO passages (passages) VALUES ('optimize')")
        database.commit()
    finally:
        database.close()


class Index:
    """A built index."""

    def __init__(self, path: Path) -> None:
        self._uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._idle: deque[sqlite3.Connection] = deque()
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)

    def search(self, query: str, count: int) -> list[Hit]:
        """Return the best passages for a query, best first."""
        asked = [word for word in words(query[:QUERY_CHARS]) if word not in STOP_WORDS][:QUERY_WORDS]
        try:
            database = self._take()
            try:
                match, rare = self._match(database, asked)
                found = (
                    database.execute(
                        _FIND if rare else _FIND.replace(_RARE, ""),
                        {"match": match, "rare": rare, "weight": TITLE_WEIGHT, "count": max(count, RERANKED)},
                    ).fetchall()
                    if match
                    else []
                )
            finally:
                self._idle.append(database)
        except sqlite3.Error as error:
            raise EnvironmentFailure(f"the index failed: {error}") from error
        hits = [Hit(Passage(title, text), -score * _fit(title, text, asked)) for title, text, score in found]
        return sorted(hits, key=lambda hit: -hit.score)[:count]

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            database = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
            database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            return database

    def _match(self, database: sqlite3.Connection, asked: list[str]) -> tuple[str, str]:
        """Return two FTS5 expressions: the words that score, and the words that select (empty if all of them do)."""
        counted = sorted((count, f'"{word}"') for word in asked if (count := self._count(database, word)))
        rare, scored = list[str](), 0
        for count, word in counted:
            scored += count
            if scored <= SCORED:
                rare.append(word)
        if not rare:
            return " AND ".join(word for _, word in counted), ""
        scoring = [word for count, word in counted if count <= COMMON]
        return " OR ".join(scoring), " OR ".join(rare) if len(rare) < len(scoring) else ""

    def _count(self, database: sqlite3.Connection, word: str) -> int:
        """Return the number of passages with a word, capped just above `COMMON`."""
        if (known := self._counts.get(word)) is not None:
            return known
        (count,) = database.execute(
            "SELECT count(*) FROM (SELECT 1 FROM passages WHERE passages MATCH ? LIMIT ?)", (f'"{word}"', COMMON + 1)
        ).fetchone()
        with self._lock:
            if len(self._counts) >= KNOWN_WORDS:
                self._counts.clear()
            self._counts[word] = count
        return int(count)


def _fit(title: str, text: str, asked: list[str]) -> float:
    """Return, in 0..2, the squared share of the title in the query plus the share of the query in the passage."""
    named, whole = words(title), f"{title} {text}".lower()
    titled = sum(word in asked for word in named) / len(named) if named else 0.0
    return titled**2 + sum(word in whole for word in asked) / len(asked)


def _close_all(idle: deque[sqlite3.Connection]) -> None:
    while idle:
        idle.pop().close()


class RemoteIndex:
    """A remote retrieval server with Search-R1's protocol."""

    def __init__(self, where: Place) -> None:
        self._where = where
        self._http = Http(where)
        weakref.finalize(self, self._http.close)

    def search(self, query: str, count: int) -> list[Hit]:
        """Query the server and validate its response."""
        answer = self._http.call("POST", "", {"queries": [query[:QUERY_CHARS]], "topk": count, "return_scores": True})
        try:
            (found,) = answer["result"]
            return [_hit(one) for one in found[:count]]
        except (KeyError, TypeError, ValueError) as error:
            raise EnvironmentFailure(f"{self._where} does not answer in Search-R1's format: {error}") from error


def _hit(found: dict[str, Any]) -> Hit:
    contents = found["document"]["contents"]
    if not isinstance(contents, str):
        raise TypeError("`contents` is not a string")
    return Hit(Passage.of(contents), float(found.get("score", 0.0)))
