"""`upturn policies`: every version with its roles and state, and what a person decides about one."""

from __future__ import annotations

from typing import Annotated

import typer

from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.examples import examples
from upturn.command.output import print_json, print_table, time_text
from upturn.command.run import OPTIONS
from upturn.wire import PolicyView

Version = Annotated[int, typer.Argument(metavar="VERSION", min=0, help="Number of the version.")]
Reason = Annotated[str, typer.Option(help="Recorded in the ledger.")]


def group() -> typer.Typer:
    """Return the group of commands; a distribution may add its own."""
    made = typer.Typer(
        help="List policy versions, promote one, or export its weights.",
        context_settings=OPTIONS,
        epilog=examples("upturn policies", "upturn policies --json"),
    )
    made.callback(invoke_without_command=True)(policies)
    made.command("promote", epilog=examples("upturn policies promote 12 --reason 'better by hand'"))(promote)
    made.command("rollback", epilog=examples("upturn policies rollback"))(rollback)
    made.command("pin", epilog=examples("upturn policies pin 12"))(pin)
    made.command("unpin", epilog=examples("upturn policies unpin 12"))(unpin)
    return made


def policies(context: typer.Context, server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """List the policy versions, newest first, or run one of the commands below."""
    if context.invoked_subcommand is not None:
        return
    with connect(server, key) as client:
        found = client.policies().data
    if as_json:
        print_json(found)
        return
    print_table(
        ("version", "kind", "state", "run", "step", "created"),
        [
            (
                policy.id,
                policy.kind,
                state_of(policy),
                policy.run_id or "-",
                "-" if policy.step is None else str(policy.step),
                time_text(policy.created_at),
            )
            for policy in found
        ],
    )


def promote(
    version: Version, reason: Reason = "by hand", server: Server = LOCAL, key: Key = None, as_json: AsJson = False
) -> None:
    """Make a version the champion."""
    with connect(server, key) as client:
        _print(client.promote(version, reason), as_json)


def rollback(reason: Reason = "by hand", server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Make the previous champion the champion again."""
    with connect(server, key) as client:
        _print(client.rollback(reason), as_json)


def pin(version: Version, server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Keep a version's weights permanently; the watch does not roll it back."""
    with connect(server, key) as client:
        _print(client.pin(version), as_json)


def unpin(version: Version, server: Server = LOCAL, key: Key = None, as_json: AsJson = False) -> None:
    """Undo a pin."""
    with connect(server, key) as client:
        _print(client.unpin(version), as_json)


def state_of(policy: PolicyView) -> str:
    """Return a version's roles, and whether its weights are loaded, on disk or deleted."""
    roles = [role for role in ("champion", "canary", "head", "pinned") if getattr(policy, role)]
    return ", ".join([*roles, "loaded" if policy.loaded else "on disk" if policy.kept else "deleted"])


def _print(policy: PolicyView, as_json: bool) -> None:
    if as_json:
        print_json(policy)
    else:
        print(f"{policy.id}: {state_of(policy)}")
