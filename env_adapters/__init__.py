"""Environments: one file each, heavy imports inside. `family(name)` is the only way in."""

from __future__ import annotations

import importlib
from functools import cache

from env_adapters.protocol import Family, UnknownTask

_FAMILIES = {"textcraft": "env_adapters.textcraft"}


def names() -> list[str]:
    """Names of all environments."""
    return sorted(_FAMILIES)


@cache
def family(name: str) -> Family:
    """Return the environment of that name, loaded once per process.

    Raises:
        UnknownTask: there is no such environment.
    """
    if name not in _FAMILIES:
        raise UnknownTask(f"no environment {name!r}; there are: {', '.join(names())}")
    made: Family = importlib.import_module(_FAMILIES[name]).make_family()
    return made
