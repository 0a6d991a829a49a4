"""Environments: one file each, heavy imports inside. `family(name)` is the only way in.

A name is `textcraft`, or `gymnasium:CartPole-v1` for a kind that takes an argument. Environments that run elsewhere get
a name by `register`, since nobody who only names an environment should choose what this machine connects to.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from functools import cache

from env_adapters.protocol import Family, UnknownTask

_FAMILIES = {
    "babyai": "env_adapters.babyai.family",
    "miniwob": "env_adapters.miniwob.family",
    "sciworld": "env_adapters.sciworld.family",
    "search": "env_adapters.search.family",
    "shop": "env_adapters.shop.family",
    "textcraft": "env_adapters.textcraft.family",
    "textworld": "env_adapters.textworld.family",
}
_KINDS: dict[str, str] = {
    "gymnasium": "env_adapters.gymnasium.family",
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


def register_module(name: str, module: str) -> None:
    """Add an environment of one's own: a module with `make_family()`, such as those of this package.

    Raises:
        ValueError: the name is another environment's.
    """
    if _FAMILIES.get(name, module) != module or name in _REMOTE:
        raise ValueError(f"there is an environment {name!r} already")
    _FAMILIES[name] = module


def register_modules(modules: Iterable[str]) -> list[str]:
    """Add modules under the names that their families have; return the names.

    Raises:
        ImportError, ValueError: a module cannot be imported, or its name is taken.
    """
    found = [(importlib.import_module(module).make_family().name, module) for module in modules]
    for name, module in found:
        register_module(name, module)
    return [name for name, _ in found]


def register(name: str, spec: str) -> None:
    """Name an environment that runs elsewhere: `agentgym:KIND@URL`, `openenv@URL`, `mcp@URL` or `mcp@URL#end=TOOL`.

    Raises:
        ValueError: the spec is none of these, or the name cannot be given.
    """
    from env_adapters.remote.connection import KINDS

    kind, argument = re.fullmatch(r"(\w*)[:@]?(.*)", spec, re.DOTALL).groups()  # type: ignore[union-attr]
    if kind not in KINDS:
        raise ValueError(
            f"what gets a name is agentgym:KIND@URL, openenv@URL, mcp@URL or search@CORPUS,QUESTIONS, not {kind!r}"
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
        raise ValueError(f"{name!r} is not a name of small letters, digits, dots, dashes and underscores")
    importlib.import_module(KINDS[kind]).make_family(argument, name=name)
    if name in _FAMILIES or _REMOTE.get(name, (KINDS[kind], argument)) != (KINDS[kind], argument):
        raise ValueError(f"there is an environment {name!r} already")
    _REMOTE[name] = (KINDS[kind], argument)


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
