"""The sources of settings, each of which refuses unknown names: TOML file < environment < flags."""

from __future__ import annotations

import argparse
import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Never

from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as SourceError,
)

from server.configuration.flags import american, flags_of, suggestion
from server.section import SettingsError

PREFIX = "UPTURN_"
NESTED = "__"
OTHERS = frozenset({"UPTURN_KEY", "UPTURN_SERVER"})
"""Variables of the learner and the client, which the same environment may hold."""

log = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    """Raises its errors instead of printing all flags."""

    def error(self, message: str) -> Never:
        raise SettingsError(message.replace("unrecognized arguments", "unexpected arguments"))


class Flags(CliSettingsSource[Any]):
    """Reads flags.

    Raises:
        SettingsError: a flag is unknown or lacks its value.
    """

    def __init__(self, settings: type[BaseSettings], arguments: list[str]) -> None:
        parser = _Parser(add_help=False, allow_abbrev=False)
        super().__init__(settings, root_parser=parser)
        known = {name for flag in flags_of(settings) for name in flag.names}
        sections = {f"--{name}" for name in _prefixes(flag.name[2:] for flag in flags_of(settings))}
        self._numbers = _kinds(settings)
        self(args=[_known_flag(argument, known, sections) for argument in arguments])

    def __call__(self, **options: Any) -> Any:
        """Return the values, with numbers read: some sections take no text for them."""
        values = super().__call__(**options)
        return _with_numbers(values, self._numbers) if isinstance(values, dict) else values


class Environment(EnvSettingsSource):
    """Reads environment variables; the names have to be checked with `check_environment` first."""

    def __call__(self) -> dict[str, Any]:
        """Return the values, with numbers read: some sections take no text for them."""
        return _with_numbers(super().__call__(), _kinds(self.settings_cls))


def read(settings: type[BaseSettings], arguments: list[str]) -> Any:
    """Return an instance of `settings`; `--config FILE` among the arguments names the TOML file.

    Raises:
        SettingsError: a flag or variable is unknown, or a source cannot be read.
        pydantic.ValidationError: a value is wrong, or a key of the file is unknown.
    """
    arguments, config = _take_config(arguments)
    check_environment(settings, os.environ)

    class Loaded(settings):  # type: ignore[valid-type,misc]
        @classmethod
        def settings_customise_sources(cls, settings_cls: type[BaseSettings], **_: Any) -> tuple[Any, ...]:
            """Order of precedence, highest first."""
            sources: list[PydanticBaseSettingsSource] = [Flags(settings, arguments), Environment(settings_cls)]
            if config:
                sources.append(TomlConfigSettingsSource(settings_cls, toml_file=config))
            return tuple(sources)

    try:
        return Loaded()
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"--config {config}: {error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"--config {config}: not a text in UTF-8; save it as UTF-8") from error
    except SourceError as error:
        raise SettingsError(_source(error, settings)) from error


def _source(error: SourceError, settings: type[BaseSettings]) -> str:
    """Say which variable of the environment holds no JSON, where its setting is a section or a list."""
    message = str(error)
    for field in settings.model_fields:
        if message == f'error parsing value for field "{field}" from source "Environment"':
            name = f"{PREFIX}{field}".upper()
            return f"{name}: not JSON; sections and lists are JSON, or set {name}{NESTED}... one by one"
    return message


def check_environment(settings: type[BaseSettings], variables: Mapping[str, str]) -> None:
    """Refuse unknown variables with the prefix `UPTURN_`, which pydantic-settings would ignore.

    Raises:
        SettingsError: names every unknown variable, with a suggestion.
    """
    paths = [flag.path for flag in flags_of(settings)]
    known = {f"{PREFIX}{path.replace('.', NESTED)}".upper() for path in [*paths, *_prefixes(paths)]}
    open_ended = f"{PREFIX}SCHEDULE{NESTED}RUN{NESTED}"  # Validated by the run's own model.
    unknown = sorted(
        name
        for name in variables
        if name.upper().startswith(PREFIX)
        and name.upper() not in known | OTHERS
        and not name.upper().startswith(open_ended)
    )
    if unknown:
        named = "; ".join(name + suggestion(name.upper(), known).replace("; did you", ", did you") for name in unknown)
        raise SettingsError(f"unknown settings in the environment: {named}")


def _known_flag(argument: str, known: set[str], sections: set[str]) -> str:
    """Return an argument whose flag exists; British spelling becomes American.

    Raises:
        SettingsError: it is an unknown flag.
    """
    name, equals, value = argument.partition("=")
    if not name.startswith("--") or name in known | sections:
        return argument
    renamed = american(name)
    if renamed in known:
        log.warning("the flag %s is now spelled %s", name, renamed)
        return f"{renamed}{equals}{value}"
    raise SettingsError(f"unknown flag {name}{suggestion(name, known)}")


def _prefixes(paths: Any) -> set[str]:
    """Return every section of dotted paths."""
    return {".".join(parts[:end]) for path in paths for parts in [path.split(".")] for end in range(1, len(parts))}


def _kinds(settings: type[BaseSettings]) -> dict[str, str]:
    """Return the type of every setting by its path in American spelling; a switch's is empty."""
    return {american(flag.path): flag.values for flag in flags_of(settings)}


def _with_numbers(values: dict[str, Any], kinds: dict[str, str], section: str = "") -> dict[str, Any]:
    """Return the values with numbers and switches read from text, where the text is valid."""
    read: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{section}{name}"
        if isinstance(value, dict):
            read[name] = _with_numbers(value, kinds, f"{path}.")
        else:
            kind = kinds.get(american(path))
            read[name] = _number(value, kind) if isinstance(value, str) and kind is not None else value
    return read


def _number(text: str, kind: str) -> Any:
    try:
        return {"int": int, "float": float}[kind](text)
    except (KeyError, ValueError):
        return {"true": True, "false": False}.get(text.lower(), text) if kind == "" else text


def _take_config(args: list[str]) -> tuple[list[str], Path | None]:
    """Return the arguments without `--config FILE`, and the file."""
    for position, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        if name == "--config":
            rest = args[position + 1 :]
            if not equals and not rest:
                raise SettingsError("--config needs a file")
            path = Path(value if equals else rest[0])
            if not path.is_file():
                raise SettingsError(f"--config {path}: {'not a file' if path.exists() else 'no such file'}")
            return args[:position] + (rest if equals else rest[1:]), path
    return args, None
