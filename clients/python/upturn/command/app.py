"""Builds the `upturn` command: the client's subcommands, then the entry point group `upturn.commands`.

An entry point of the group is a `typer.Typer`; its commands become subcommands of `upturn`. The server's distribution
declares one. Without it, the server's commands say how to install it.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer

from upturn import logs
from upturn.command.examples import examples
from upturn.command.run import OPTIONS, options, run

GROUP = "upturn.commands"
SERVER_COMMANDS = ("serve", "demo", "migrate", "keys", "export", "import", "backup", "restore", "doctor")
"""Commands of the server's distribution."""
MISSING = "{}: the server is not installed; run `python3 run.py setup` in a checkout of Upturn, or use its container"


def build() -> typer.Typer:
    """Return the application with every subcommand that is installed."""
    from upturn.command import campaigns, episodes, evaluate, notifications, play, policies, rehearse, runs, status

    app = typer.Typer(
        help="Serve, observe and train a language-model agent with Upturn.",
        epilog=examples("upturn demo", "upturn serve", "upturn status", "upturn train --set steps=10"),
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings=OPTIONS,
    )
    app.callback(invoke_without_command=True)(options)
    app.command("status", epilog=status.EXAMPLES)(status.status)
    app.command("runs", epilog=runs.EXAMPLES)(runs.runs)
    app.command("train", epilog=runs.TRAIN_EXAMPLES)(runs.train)
    app.command("campaigns", epilog=campaigns.EXAMPLES)(campaigns.campaigns)
    app.command("rehearse", epilog=rehearse.EXAMPLES)(rehearse.rehearse)
    app.command("notifications", epilog=notifications.EXAMPLES)(notifications.notifications)
    app.command("play", epilog=play.EXAMPLES)(play.play)
    app.command("eval", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
    app.command("leaderboard", epilog=evaluate.BOARD_EXAMPLES)(evaluate.leaderboard)
    app.add_typer(runs.group, name="run")
    app.add_typer(episodes.group, name="episodes")
    of_policies = policies.group()
    app.add_typer(of_policies, name="policies")
    installed = {entry.name: entry.load() for entry in entry_points(group=GROUP)}
    for part in installed.values():
        _add(app, part)
    if "server" not in installed:
        for name in SERVER_COMMANDS:
            _missing(app, name, f"upturn {name}")
        _missing(of_policies, "export", "upturn policies export")
    elif "demo" not in installed:
        _missing(app, "demo", "upturn demo")
    return app


def main() -> int:
    """Run `upturn`; return the exit code."""
    logs.configure()
    return run(build(), sys.argv[1:], "upturn")


def _add(app: typer.Typer, part: typer.Typer) -> None:
    """Add a distribution's commands; commands of a group that exists already join it."""
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    app.registered_commands += part.registered_commands
    for group in part.registered_groups:
        known = groups.get(group.name)
        if known is not None and group.typer_instance is not None:
            known.registered_commands += group.typer_instance.registered_commands
        else:
            app.registered_groups.append(group)


def _missing(app: typer.Typer, name: str, program: str) -> None:
    """Add a command that says how to install it."""

    def command() -> int:
        print(MISSING.format(program), file=sys.stderr)
        return 1

    app.command(
        name,
        help="Part of the server, which is not installed.",
        rich_help_panel="Server (not installed)",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    )(command)
