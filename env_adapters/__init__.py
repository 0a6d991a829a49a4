"""Environments: one file each, heavy imports inside. `family(name)` is the only way in.

A name is `textcraft`, or `gymnasium:CartPole-v1` for a kind that takes an argument. Environments that run elsewhere get
a name by `register`, since nobody who only names an environment should choose what this machine connects to.
"""

from __future__ import annotations

import importlib
from functools import cache

from env_adapters.protocol import Family, UnknownTask

_FAMILIES = {
    "textcraft": "env_adapters.textcraft",
}
_KINDS: dict[str, str] = {
}
"""Modules whose `make_family` takes an argument: what follows the colon."""
_REMOTE: dict[str, tuple[str, str]] = {}
"""Names of environments that run elsewhere: the module that speaks to them, and its argument."""


def names() -> list[str]:
    """Names of all environments, those that take an argument left out."""
    return sorted([*_FAMILIES, *_REMOTE])


def kinds() -> list[str]:
    """Kinds of environment that take an argument, such as `gymnasium`."""
    return sorted(_KINDS)


@cache
def family(name: str) -> Family:
    """Return the environment of that name, loaded once per process.

    Raises:
        UnknownTask: there is no such environment.
    """
    kind, colon, argument = name.partition(":")
    made: Family
    if name in _REMOTE:
        module, argument = _REMOTE[name]
        made = importlib.import_module(module).make_family(argument, name=name)
    elif colon and argument and kind in _KINDS:
        made = importlib.import_module(_KINDS[kind]).make_family(argument)
    elif name in _FAMILIES:
        made = importlib.import_module(_FAMILIES[name]).make_family()
    else:
        also = "".join(f", {kind}:ID" for kind in kinds())
        raise UnknownTask(f"no environment {name!r}; there are: {', '.join(names())}{also}")
    return made
