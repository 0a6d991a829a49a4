"""`python -m server COMMAND`: the commands of `server/commands/`, which `upturn COMMAND` runs too."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from server.commands.app import app
from upturn import __version__
from upturn.command.run import OPTIONS, help_unless_command, run

PROGRAM = "python -m server"
root = typer.Typer(
    rich_markup_mode="markdown", pretty_exceptions_enable=False, add_completion=False, context_settings=OPTIONS
)
root.add_typer(app)


def main(arguments: list[str]) -> int:
    """Run a command; return its exit code."""
    return run(root, arguments, PROGRAM)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"upturn-server {__version__}")
        raise typer.Exit


@root.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Serve a language-model agent behind the OpenAI API, and train it on its own episodes."""
    help_unless_command(context)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
