"""Runs a command's module with the settings of its options, and reports what fails."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from upturn import logs
from upturn.command.failure import report

Config = Annotated[str | None, typer.Option("--config", metavar="FILE", help="TOML file of settings.")]
DataDir = Annotated[str | None, typer.Option("--data-dir", metavar="DIR", help="Data directory of the server.")]
DatabaseUrl = Annotated[str | None, typer.Option("--database-url", metavar="URL", help="SQLAlchemy URL.")]


def run_command(command: str, named: dict[str, str | None], flags: list[str] | None = None, **options: Any) -> int:
    """Load the settings and run a command's module.

    Args:
        command: a module of this package, with `run(settings, ...) -> exit code`.
        named: settings by flag; None values are left out.
        flags: further settings, as on the command line.
        options: further arguments of `run`.

    Returns:
        The exit code: 2 if the settings are invalid, 1 if another server or a newer version owns the database.
    """
    from pydantic import ValidationError

    from server.commands.failures import explain as explain_failure
    from server.configuration.errors import explain
    from server.section import SettingsError
    from server.settings import Settings

    logs.configure()
    arguments = [f"--{name}={value}" for name, value in named.items() if value is not None]
    try:
        settings = Settings.load([*arguments, *(flags or [])])
    except ValidationError as error:
        return _wrong_settings(explain(error, Settings))
    except SettingsError as error:
        return _wrong_settings([str(error)])
    logs.configure(settings.log_level, settings.log_format)
    try:
        return int(import_module(f"server.commands.{command}").run(settings, **options))
    except SettingsError as error:
        return _wrong_settings([str(error)])
    except Exception as error:
        return report(error, command.rstrip("_"), lambda e: explain_failure(e, settings), settings.data_dir / "logs")


def _wrong_settings(lines: list[str]) -> int:
    for line in lines:
        print(f"settings: {line}", file=sys.stderr)
    return 2
