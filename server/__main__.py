"""`python -m server COMMAND`: the commands of `server/commands/`, which `upturn COMMAND` runs too."""

from __future__ import annotations

import sys

try:
    import typer

    from server.commands.app import app
    from upturn.command.run import OPTIONS, options, run
except ModuleNotFoundError as error:  # Such as with the system's Python.
    sys.exit(f"python -m server: {error}: run it with .venv/bin/python, which `python3 run.py setup` makes")

PROGRAM = "python -m server"
HELP = "Serve a language-model agent behind the OpenAI API, and train it on its own episodes."
root = typer.Typer(
    rich_markup_mode="markdown", pretty_exceptions_enable=False, add_completion=False, context_settings=OPTIONS
)
root.callback(invoke_without_command=True, help=HELP)(options)
root.add_typer(app)


def main(arguments: list[str]) -> int:
    """Run a command; return its exit code."""
    return run(root, arguments, PROGRAM, "upturn-server")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
