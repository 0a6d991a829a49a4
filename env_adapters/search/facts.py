"""Facts of the CIA World Factbook, parsed strictly from its fields; the questions of `search` are made from them.

A field that does not match the expected format exactly gives no fact, so each fact has one value and one passage that
states it. `questions.py` combines facts into questions.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from env_adapters.search.corpus import Country, countries, name_of, part

ALIASES = {
    "US": "us",
    "UK": "uk",
    "UAE": "ae",
    "Czech Republic": "ez",
    "Macedonia": "mk",
    "Cote d'Ivoire": "iv",
    "Ivory Coast": "iv",
    "Myanmar": "bm",
    "Swaziland": "wz",
    "Cape Verde": "cv",
    "DRC": "cg",
    "Congo (Kinshasa)": "cg",
    "Congo (Brazzaville)": "cf",
    "Congo-Brazzaville": "cf",
    "Vatican City": "vt",
    "Holy See (Vatican City)": "vt",
    "Turkiye": "tu",
    "East Timor": "tt",
    "Great Britain": "uk",
    "Britain": "uk",
    "USA": "us",
    "French Guiana": "fr",
    "America": "us",
    "Gambia": "ga",
    "Bahamas": "bf",
}
"""Other names of countries, in the Factbook or in answers."""
NEVER = frozenset(
    {
        "Ifni",
        "Ruanda-Urundi",
        "Mandatory Palestine",
        "Quito",
        "Ponape",
        "Truk",
        "Netherlands New Guinea",
        "Nieuw Zeeland",
        "Jerusalem",
        "Aegukka",
        "Aegukga",
        "De Wilhelmus",
    }
)
"""Values that are disputed, or do not identify a country."""
WITH_ARTICLE = frozenset({"Netherlands", "Philippines", "Maldives", "Seychelles", "Comoros", "Holy See"})
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"


@dataclass(frozen=True, slots=True)
class Fact:
    """A value and the passage that states it."""

    value: str
    title: str
    stands: str
    """The value as written in the passage with that title."""
    also: tuple[str, ...] = ()
    """Other accepted spellings."""


@dataclass(slots=True)
class Entry:
    """The facts about one country."""

    code: str
    name: str
    long: str
    sovereign: bool
    one: dict[str, Fact] = field(default_factory=dict)
    """Facts that a country has at most once, by kind."""
    number: dict[str, tuple[float, Fact]] = field(default_factory=dict)
    former: list[Fact] = field(default_factory=list)
    borders: dict[str, Fact] = field(default_factory=dict)
    """Neighbors by code, each with its name in this country's passage."""

    @property
    def called(self) -> str:
        """The name within a sentence, with its article."""
        the = re.search("^(United|Democratic|Federated|Republic)|(Islands|Republic)$", self.name)
        return f"the {self.name}" if the or self.name in WITH_ARTICLE else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the other names that count as a correct answer."""
        others = [name for name, code in ALIASES.items() if code == self.code]
        return tuple(dict.fromkeys([self.name, self.long, *others]))


def folded(text: str) -> str:
    """Return a text without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def akin(one: str, other: str) -> bool:
    """Return whether two names share the beginning of a word, so that one reveals the other."""
    stems = {word[:4] for word in re.findall(r"\w{4,}", folded(one.lower()))}
    return any(word[:4] in stems for word in re.findall(r"\w{4,}", folded(other.lower())))


def _matched(pattern: str) -> Callable[[str], tuple[str, tuple[str, ...]] | None]:
    """Return a reader for fields that match a pattern exactly; the first group is the value."""

    def read(text: str) -> tuple[str, tuple[str, ...]] | None:
        found = re.fullmatch(pattern, text)
        return (found[1].strip(), ()) if found else None

    return read


def _capital(text: str) -> tuple[str, tuple[str, ...]] | None:
    found = re.fullmatch(r"([A-Z][\w' -]+?(?:, D\.C\.)?)(?: \(([^();:]+)\))?", text)
    if not found or re.search("capital|no official| in ", text):
        return None
    also = [name.strip() for name in re.split(r",|/", found[2] or "")] + [found[1].partition(",")[0]]
    return found[1], tuple(name for name in also if re.fullmatch(r"[A-Z][\w'-]+( [A-Z]\w+)*", name))


def _currency(text: str) -> tuple[str, tuple[str, ...]] | None:
    found = re.fullmatch(r"([\w' -]+?) \(([A-Z]{3})\) per US dollar ?-?", text)
    if not found or " or " in text:
        return None
    one = re.sub(r"ies$", "y", found[1]) if found[1].endswith("ies") else found[1].removesuffix("s")
    return found[1], (one, found[2], f"{found[1]} ({found[2]})")


READERS: dict[str, tuple[tuple[str, ...], Callable[[str], tuple[str, tuple[str, ...]] | None]]] = {
    "capital": (("Government", "Capital", "name"), _capital),
    "currency": (("Economy", "Exchange rates", "Currency"), _currency),
    "internet-code": (("Communications", "Internet country code"), _matched(r"(\.[a-z]{2})")),
    "highest-point": (("Geography", "Elevation", "highest point"), _matched(r"([A-Z][\w' -]+?) [\d,]+ m")),
    "aircraft-prefix": (
        ("Transportation", "Civil aircraft registration country code prefix"),
        _matched(r"([A-Z0-9]{1,3})"),
    ),
    "independence-year": (
        ("Government", "Independence"),
        _matched(rf"\d{{1,2}} (?:{MONTHS}) (\d{{4}}) \(from [^();]+\)"),
    ),
    "independence-from": (
        ("Government", "Independence"),
        _matched(rf"\d{{1,2}} (?:{MONTHS}) \d{{4}} \(from ((?:the )?(?:[A-Z]\w+)(?: [A-Z]\w+)?)\)"),
    ),
    "anthem": (("Government", "National anthem(s)", "title"), _matched(r'["“]([^"”()]{5,})["”](?: ?\([^()]*\))?')),
}
"""Facts by kind: the path of the field, and its reader."""
NUMBERS = {
    "area": (("Geography", "Area", "total "), r"([\d,.]+) sq km"),
    "population": (("People and Society", "Population", "total"), r"([\d,.]+) \(20\d\d est\.\)"),
    "elevation": (("Geography", "Elevation", "highest point"), r"[A-Z][\w'/ -]+? ([\d,]+) m"),
    "median-age": (("People and Society", "Median age", "total"), r"([\d.]+) years \(20\d\d est\.\)"),
}


def _read(code: str, country: Country) -> Entry:
    name, naming = name_of(code, country), ("Government", "Country name")
    government, independence = (part(country, "Government", field) for field in ("Government type", "Independence"))
    entry = Entry(
        code,
        name,
        part(country, *naming, "conventional long form").partition(" (")[0],
        bool(government and independence) and not independence.startswith("none"),
    )
    if ";" in entry.long or entry.long in ("", "none"):
        entry.long = name
    for kind, (path, read) in READERS.items():
        if found := read(part(country, *path)):
            entry.one[kind] = Fact(found[0], f"{name}: {path[1]}", found[0], found[1])
    for kind, (path, pattern) in NUMBERS.items():
        if match := re.fullmatch(pattern, part(country, *path)):
            value = float(match[1].replace(",", ""))
            entry.number[kind] = value, Fact(match[1], f"{name}: {path[1]}", match[1])
    for former in part(country, *naming, "former").split(", "):
        if re.fullmatch(r"[A-Z][\w' -]{3,40}", former):
            entry.former.append(Fact(former, f"{name}: {naming[1]}", former))
    return entry


def entries() -> dict[str, Entry]:
    """Read all countries and territories, without the European Union."""
    book = {code: country for code, country in countries().items() if code != "ee"}
    read = {code: _read(code, country) for code, country in book.items()}
    codes = {folded(entry.name): code for code, entry in read.items()} | ALIASES
    codes |= {folded(entry.long): code for code, entry in read.items()}
    for code, country in book.items():
        for listed in re.split(r"[;,] (?=[A-Z])", part(country, "Geography", "Land boundaries", "border countries")):
            found = re.match(r"([A-Z][\w' -]+?)(?: \([^)]*\))? [\d,.]+ km", folded(listed))
            if found and found[1] in codes:
                read[code].borders[codes[found[1]]] = Fact(found[1], f"{read[code].name}: Land boundaries", found[1])
    return read


def identifying(read: dict[str, Entry], kind: str) -> Iterator[tuple[Entry, Fact]]:
    """Yield the facts of a kind that only one country has and that do not reveal its name."""
    stated = [(entry, fact, folded(fact.value.lower())) for entry in read.values() for fact in _facts(entry, kind)]
    names = {folded(name.lower()) for entry in read.values() for name in entry.names}
    heights = Counter(entry.number["elevation"][0] for entry in read.values() if "elevation" in entry.number)
    for entry, fact, value in stated:
        shared = any(value in other for owner, _, other in stated if owner is not entry)
        given_away = value in names or any(akin(fact.value, name) for name in entry.names)
        if kind == "highest-point":  # A mountain on a border may have two names.
            shared = shared or heights[entry.number["elevation"][0]] > 1
        general = "nacional" in value or fact.value.startswith("Trust Territory")
        if not (shared or given_away or general or fact.value in NEVER):
            yield entry, fact


def _facts(entry: Entry, kind: str) -> list[Fact]:
    return entry.former if kind == "former" else [entry.one[kind]] if kind in entry.one else []
