"""Train and test splits: a hash of the task's name decides, so the split is the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def held_out(environment: str, names: Iterable[str], count: int) -> frozenset[str]:
    """Return the `count` task names to test on, out of an environment's tasks or one of its groups."""
    return frozenset(sorted(names, key=lambda name: hashlib.sha256(f"{environment}/{name}".encode()).digest())[:count])


def numbered(environment: str, groups: Iterable[str], tasks: int, tests: int) -> dict[str, str]:
    """Return the split of every task `GROUP/0`, `GROUP/1`, ..., in order.

    Args:
        environment: its name.
        groups: pages, templates or levels.
        tasks: number of tasks per group.
        tests: how many of these are for testing.
    """
    splits: dict[str, str] = {}
    for group in groups:
        names = [f"{group}/{number}" for number in range(tasks)]
        test = held_out(environment, names, tests)
        splits.update({name: "test" if name in test else "train" for name in names})
    return splits
