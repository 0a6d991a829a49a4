"""Every setting as a flag: its name, values, default and help, as pydantic-settings parses it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic_settings import BaseSettings, CliSettingsSource

_DEFAULT = re.compile(r"(.*?)\s*\((?:default|ifdef|default factory): (.*)\)", re.DOTALL)
_AMERICAN = (("optimis", "optimiz"), ("normalis", "normaliz"))


@dataclass(frozen=True, slots=True)
class Flag:
    """One setting on the command line."""

    name: str
    """Such as `--engine.context-tokens`."""
    path: str
    """Name in the TOML file, such as `engine.context_tokens`."""
    values: str
    """Type or choices, such as `int` or `{auto,local}`; empty for a switch, which also has the form `--no-...`."""
    default: str
    """Default value, or `required`."""
    help: str
    """The setting's docstring on one line."""

    @property
    def topic(self) -> str:
        """Section of the setting; empty for a top-level setting."""
        return "schedule.run" if self.path.startswith("schedule.run.") else self.path.rpartition(".")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """All forms of the flag."""
        return (self.name,) if self.values else (self.name, f"--no-{self.name[2:]}")

    @property
    def choices(self) -> list[str]:
        """All values, if they can be listed."""
        return self.values[1:-1].split(",") if self.values.startswith("{") else []


@cache
def flags_of(settings: type[BaseSettings]) -> tuple[Flag, ...]:
    """Return the flag of every setting. A whole section as JSON (`--engine '{...}'`) is accepted but not listed."""
    flags: list[Flag] = []

    def add(parser: Any, *names: str, **its: Any) -> Any:
        if its["help"] != argparse.SUPPRESS:
            found = _DEFAULT.fullmatch(its["help"])
            text, default = found.groups() if found else (its["help"], "")
            flags.append(Flag(names[0], its["dest"], its.get("metavar", ""), default, " ".join(text.split())))
        return argparse.ArgumentParser.add_argument(parser, *names, **its)

    CliSettingsSource(settings, root_parser=argparse.ArgumentParser(add_help=False), add_argument_method=add)
    return tuple(flags)


def suggestion(wrong: str, right: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the closest name, or an empty string if no name is close."""
    close = get_close_matches(wrong, list(right), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def american(name: str) -> str:
    """Return a setting's name in American spelling."""
    for british, spelling in _AMERICAN:
        name = name.replace(british, spelling)
    return name
