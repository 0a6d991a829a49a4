"""Which tasks are for testing: a hash of the name decides, so it is the same everywhere and in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def held_out(family: str, names: Iterable[str], count: int) -> frozenset[str]:
    """Return the `count` names that are for testing, of those of a family or of one of its groups."""
    return frozenset(sorted(names, key=lambda name: hashlib.sha256(f"{family}/{name}".encode()).digest())[:count])


def numbered(family: str, groups: Iterable[str], tasks: int, tests: int) -> dict[str, str]:
    """Return the split of every task, in order: each group has tasks `GROUP/0` and so on, `tests` of them for testing.

    Args:
        family: its name.
        groups: pages, templates, levels.
        tasks: of each group.
        tests: of these.
    """
    found: dict[str, str] = {}
    for group in groups:
        names = [f"{group}/{number}" for number in range(tasks)]
        test = held_out(family, names, tests)
        found.update({name: "test" if name in test else "train" for name in names})
    return found
