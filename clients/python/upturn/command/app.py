"""Builds the `upturn` command: the client's subcommands, then the entry point group `upturn.commands`.

An entry point of the group is a `typer.Typer`; its commands become subcommands of `upturn`. The server's distribution
declares one. Without it, the server's commands say how to install it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import typer

from upturn import logs
from upturn.command.run import OPTIONS, options, run

GROUP = "upturn.commands"
SERVER_COMMANDS = ("serve", "migrate", "keys", "export", "import", "doctor")
"""Commands of the server's distribution."""
MISSING = (
    "upturn {}: the server is not installed; run `python3 run.py setup` in a checkout of Upturn, or use its container"
)


def build() -> typer.Typer:
    """Return the application with every subcommand that is installed."""
    from upturn.command import campaigns, episodes, evaluate, notifications, play, policies, rehearse, runs, status

    app = typer.Typer(
        help="Serve, observe and train a language-model agent with Upturn.",
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings=OPTIONS,
    )
    app.callback(invoke_without_command=True)(options)
    app.command("status")(status.status)
    app.command("policies")(policies.policies)
    app.command("runs")(runs.runs)
    app.command("campaigns")(campaigns.campaigns)
    app.command("rehearse")(rehearse.rehearse)
    app.command("notifications")(notifications.notifications)
    app.command("play")(play.play)
    app.command("eval")(evaluate.evaluate)
    app.command("leaderboard")(evaluate.leaderboard)
    app.add_typer(runs.group, name="run")
    app.add_typer(episodes.group, name="episodes")
    installed = entry_points(group=GROUP)
    for entry in installed:
        app.add_typer(entry.load())
    if not any(entry.name == "server" for entry in installed):
        for name in SERVER_COMMANDS:
            app.command(
                name,
                help="Part of the server, which is not installed.",
                rich_help_panel="Server (not installed)",
                context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
            )(_missing(name))
    return app


def main() -> int:
    """Run `upturn`; return the exit code."""
    logs.configure()
    return run(build(), sys.argv[1:], "upturn")


def _missing(name: str) -> Callable[[], int]:
    def command() -> int:
        print(MISSING.format(name), file=sys.stderr)
        return 1

    return command
