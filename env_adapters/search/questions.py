"""The questions of `search`: multi-hop questions generated from the Factbook's facts, or questions from a file.

A generated question does not name the country that it asks about: it gives clues, each of which identifies one country,
and asks for a fact of that country, or which of two countries (or of all neighbors) has more of something. So its
answer is unique by construction, and the passages that lead to it are known. The splits are chosen by this project: a
hash assigns each country to `train` or `test`, and a question belongs to the split of the countries whose facts it asks
for (two countries must be in the same split).
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from env_adapters.json_lines import json_lines
from env_adapters.protocol import EnvironmentFailure
from env_adapters.search.corpus import Passage
from env_adapters.search.facts import ALIASES, NEVER, Entry, Fact, akin, entries, folded, identifying

TEST_SHARE = 0.2
PER_CLUE, PER_BORDER, PER_NEIGHBOURS, PER_PAIRING = 2, 3, 2, 3
"""Maximum number of questions per clue, and per country about its borders, its neighbors and its comparisons."""
MARGIN = 1.15
"""Minimum ratio of the largest number to the next, so that an older estimate does not change the answer."""
MOST_QUESTIONS = 10_000
"""Maximum number of questions of a file; further ones are ignored."""
CLUES = {
    "former": ('the country formerly named "{}"', "former name {}"),
    "capital": ("the country whose capital is {}", "capital name {}"),
    "anthem": ('the country whose national anthem is "{}"', "national anthem {}"),
    "highest-point": ("the country whose highest point is {}", "highest point {} elevation"),
}
"""By kind of fact: how it identifies its country, and the query that finds it."""
ASKED = {
    "capital": "What is the capital of {}?",
    "currency": "What is the currency of {}?",
    "internet-code": "What is the internet country code of {}?",
    "highest-point": "What is the highest point of {}?",
    "aircraft-prefix": "Which country code prefix do aircraft registered in {} carry?",
    "independence-year": "In which year did {} become independent?",
    "independence-from": "From whom did {} become independent?",
}
MORE = {
    "area": ("Which has the larger area: {} or {}?", "Which of the countries that border {} has the largest area?"),
    "population": (
        "Which has the larger population: {} or {}?",
        "Which of the countries that border {} has the largest population?",
    ),
    "elevation": (
        "Which has the higher highest point: {} or {}?",
        "Which of the countries that border {} has the highest highest point?",
    ),
    "median-age": (
        "Where is the median age higher: in {} or in {}?",
        "In which of the countries that border {} is the median age highest?",
    ),
}


@dataclass(frozen=True, slots=True)
class Support:
    """A passage that the answer needs: a query that finds it, its title (any, if empty), and the text it contains."""

    query: str
    title: str
    stands: str

    def is_in(self, passage: Passage) -> bool:
        """Return whether a passage is the needed one."""
        return self.title in ("", passage.title) and self.stands in passage.text


@dataclass(frozen=True, slots=True)
class Question:
    """One task."""

    task: str
    text: str
    answers: tuple[str, ...]
    """All correct answers; the oracle gives the first one."""
    supports: tuple[Support, ...]
    split: str


@dataclass(frozen=True, slots=True)
class _Clue:
    entry: Entry
    kind: str
    phrase: str
    slug: str
    supports: tuple[Support, ...]


def split_of(name: str) -> str:
    """Return the split of a name, chosen by a hash."""
    digest = hashlib.sha256(f"search/{name}".encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32 else "train"


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", folded(text.lower())))


def _support(fact: Fact) -> Support:
    return Support(fact.title.replace(":", ""), fact.title, fact.stands)


def factbook_questions() -> list[Question]:
    """Generate all questions, sorted by name.

    Raises:
        EnvironmentMissing: the Factbook is not installed.
    """
    read = entries()
    clues = [
        _Clue(
            entry,
            kind,
            phrase.format(fact.value),
            _slug(f"{kind} {fact.value}"),
            (Support(query.format(fact.value), fact.title, fact.stands),),
        )
        for kind, (phrase, query) in CLUES.items()
        for entry, fact in identifying(read, kind)
        if entry.sovereign
    ]
    made = [
        *_bridges(clues, PER_CLUE),
        *_bridges(_border_clues(read), 1),
        *_bridges(_only_neighbors(read), PER_CLUE),
        *_neighbors(read),
        *_comparisons(clues),
    ]
    return sorted({question.task: question for question in made}.values(), key=lambda question: question.task)


def _answers(read: Entry, kind: str) -> tuple[str, ...]:
    fact = read.one[kind]
    if kind == "independence-from":
        bare = fact.value.removeprefix("the ")
        same = {"Soviet Union": ("USSR",), "UK": ("United Kingdom", "Britain", "Great Britain", "England")}
        code = ALIASES.get(bare)
        others = tuple(name for name, c in ALIASES.items() if c == code and code)
        return (bare, *same.get(bare, ()), *others)
    return tuple(dict.fromkeys((fact.value, *fact.also)))


def _bridges(clues: list[_Clue], each: int) -> Iterator[Question]:
    """Ask for facts of the country that a clue identifies."""
    for clue in clues:
        kinds = [
            kind
            for kind in ASKED
            if kind != clue.kind and kind in clue.entry.one and clue.entry.one[kind].value not in NEVER
        ]
        for kind in random.Random(f"search/bridge/{clue.slug}").sample(kinds, min(each, len(kinds))):
            supports = (*clue.supports, _support(clue.entry.one[kind]))
            yield Question(
                f"{len(supports)}/{clue.slug}/{kind}",
                ASKED[kind].format(clue.phrase),
                _answers(clue.entry, kind),
                supports,
                split_of(clue.entry.code),
            )


def _border_clues(read: dict[str, Entry]) -> list[_Clue]:
    """Return clues for countries that border two others, if no other country borders both by anyone's list."""
    either: dict[str, set[str]] = {code: set(entry.borders) for code, entry in read.items()}
    for code, entry in read.items():
        for neighbour in entry.borders:
            either.setdefault(neighbour, set()).add(code)
    clues = []
    for code, entry in read.items():
        around = [
            n
            for n in sorted(entry.borders)
            if entry.sovereign and read[n].sovereign and code in read[n].borders and not akin(read[n].name, entry.name)
        ]
        pairs = [pair for pair in itertools.combinations(around, 2) if either[pair[0]] & either[pair[1]] == {code}]
        for pair in random.Random(f"search/borders/{code}").sample(pairs, min(PER_BORDER, len(pairs))):
            one, two = read[pair[0]], read[pair[1]]
            clues.append(
                _Clue(
                    entry,
                    "borders",
                    f"the country that borders both {one.called} and {two.called}",
                    f"borders-{_slug(one.name)}-and-{_slug(two.name)}",
                    (_support(one.borders[code]), _support(two.borders[code])),
                )
            )
    return clues


def _only_neighbors(read: dict[str, Entry]) -> list[_Clue]:
    """Return clues for countries that are the only neighbor of another one."""
    return [
        _Clue(
            read[code],
            "borders",
            f"the only country that {entry.called} borders",
            f"only-neighbour-of-{_slug(entry.name)}",
            (_support(entry.borders[code]),),
        )
        for entry in read.values()
        if entry.sovereign and len(entry.borders) == 1
        for code in entry.borders
        if read[code].sovereign
    ]


def _neighbors(read: dict[str, Entry]) -> Iterator[Question]:
    """Ask which of a country's two or three neighbors has most of something."""
    for code, entry in read.items():
        around = [read[neighbour] for neighbour in sorted(entry.borders)]
        if not (entry.sovereign and 2 <= len(around) <= 3 and all(n.sovereign and code in n.borders for n in around)):
            continue
        kinds = [kind for kind in MORE if _leads(kind, around)]
        rng = random.Random(f"search/neighbours/{code}")
        for kind in rng.sample(kinds, min(PER_NEIGHBOURS, len(kinds))):
            listed = next(iter(entry.borders.values()))
            supports = (
                Support(listed.title.replace(":", ""), listed.title, listed.stands),
                *(_support(n.number[kind][1]) for n in around),
            )
            yield Question(
                f"{len(supports)}/neighbours-of-{_slug(entry.name)}/{kind}",
                MORE[kind][1].format(entry.called),
                _first(kind, around).names,
                supports,
                split_of(code),
            )


def _first(kind: str, among: list[Entry]) -> Entry:
    return max(among, key=lambda entry: entry.number[kind][0])


def _leads(kind: str, among: list[Entry]) -> bool:
    """Return whether all countries have the number and one exceeds the others by `MARGIN`."""
    numbers = sorted(entry.number[kind][0] for entry in among if kind in entry.number)
    return len(numbers) == len(among) and numbers[-1] >= MARGIN * numbers[-2]


def _comparisons(clues: list[_Clue]) -> Iterator[Question]:
    """Ask which of two countries, each given by a clue, has more of something."""
    by_split = {split: [clue for clue in clues if split_of(clue.entry.code) == split] for split in ("train", "test")}
    done = set[tuple[str, ...]]()
    for code in sorted({clue.entry.code for clue in clues}):
        rng, split = random.Random(f"search/compare/{code}"), split_of(code)
        for _ in range(PER_PAIRING):
            one = rng.choice([clue for clue in clues if clue.entry.code == code])
            two = rng.choice([clue for clue in by_split[split] if clue.entry.code != code])
            # No elevations: a highest point as a clue would reveal its own.
            kinds = [kind for kind in MORE if kind != "elevation" and _leads(kind, [one.entry, two.entry])]
            if not kinds or (pair := tuple(sorted((one.slug, two.slug)))) in done:
                continue
            done.add(pair)
            kind = rng.choice(kinds)
            supports = (
                *one.supports,
                *two.supports,
                _support(one.entry.number[kind][1]),
                _support(two.entry.number[kind][1]),
            )
            yield Question(
                f"{len(supports)}/{kind}-of-{one.slug}/{two.slug}",
                MORE[kind][0].format(one.phrase, two.phrase),
                _first(kind, [one.entry, two.entry]).names,
                supports,
                split,
            )


def file_questions(path: Path) -> list[Question]:
    """Read questions: JSON Lines with `question`, `golden_answers` and optionally `id` (default: the line number).

    Raises:
        EnvironmentFailure: the file cannot be read, or a line does not have this format.
    """
    found = []
    for number, line in itertools.islice(json_lines(path), MOST_QUESTIONS):
        text, answers, task = line.get("question"), line.get("golden_answers"), line.get("id", f"line-{number}")
        if not (
            isinstance(text, str)
            and text.strip()
            and isinstance(task, str)
            and isinstance(answers, list)
            and answers
            and all(isinstance(answer, str) for answer in answers)
        ):
            raise EnvironmentFailure(f"{path}, line {number} has no `question` with `golden_answers`")
        found.append(Question(task, text, tuple(answers), (Support(text, "", ""),), split_of(task)))
    return found
