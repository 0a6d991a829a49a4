"""Runs a Typer application with this project's conventions: errors in two lines on stderr, an exit code returned."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from typing import Annotated, Any, cast

import typer

from upturn import __version__
from upturn.command.failure import Explain, explain, report

# Typer exports one of its usage errors only; their base class is click's or its own, depending on the version.
UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])

OPTIONS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Context settings that every command has."""


def run(
    app: typer.Typer, arguments: list[str], program: str, distribution: str = "upturn", known: Explain = explain
) -> int:
    """Run a command line and return its exit code.

    Args:
        app: its commands; each returns its exit code, or None for 0. `--version` works after each of them.
        arguments: the command line after the program's name.
        program: the program's name in help and errors.
        distribution: the installed package that contains the program.
        known: explains expected failures.

    Returns:
        The command's exit code; 1 after a failure, 2 after wrong usage, 130 after Ctrl-C.
    """
    if "--version" in arguments:
        print(f"{distribution} {__version__}")
        return 0
    try:
        code = app(arguments, prog_name=program, standalone_mode=False)
    except UsageError as error:
        usage: Any = error
        command = usage.ctx.command_path if usage.ctx is not None else program
        if message := usage.format_message():
            print(f"{command}: {message.replace('Value error, ', '')}", file=sys.stderr)
            print(f"`{command} --help` shows the usage.", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # The reader, such as `head`, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        return report(error, program, known)
    return int(code or 0)


def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """List `--version`, which `run` answers, and show the help if no command is given: a program's callback."""
    help_unless_command(context)


def help_unless_command(context: typer.Context) -> None:
    """Show the help on stderr and exit with 2 if a group is called without a command."""
    if context.invoked_subcommand is None:
        with redirect_stdout(sys.stderr):
            if text := context.get_help():  # Empty if rich has printed it.
                print(text)
        raise typer.Exit(2)
