"""`upturn notifications`: what webhook and command were told, and whether a test message arrives."""

from __future__ import annotations

from typing import Annotated

import typer

from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.examples import examples
from upturn.command.output import print_json, print_table, time_text
from upturn.wire import NotificationTest
from upturn.wire.notifications import OFF

EXAMPLES = examples("upturn notifications", "upturn notifications --test")


def notifications(
    test: Annotated[
        bool, typer.Option("--test", help="Send a test message now, and say whether it has arrived.")
    ] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Maximum number of notifications.")] = 20,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> int:
    """List the newest notifications, and whether each has arrived."""
    with connect(server, key) as client:
        if test:
            return _show_test(client.test_notifications(), as_json)
        found = client.notifications(limit)
    if as_json:
        print_json(found)
        return 0
    if not found.targets:
        print(OFF)
    if found.data or found.targets:
        print_table(
            ("created", "target", "state", "attempts", "event", "what happened"),
            [
                (
                    time_text(one.created_at),
                    one.target,
                    one.state.replace("_", " "),
                    str(one.attempts),
                    one.type,
                    one.text if one.error is None or one.state == "sent" else f"{one.text} ({one.error})",
                )
                for one in found.data
            ],
        )
    return 0


def _show_test(done: NotificationTest, as_json: bool) -> int:
    """Print what became of a test message; return 1 if a target did not get it."""
    if as_json:
        print_json(done)
    else:
        for one in done.data:
            print(f"{one.target}: {'arrived' if one.arrived else f'did not arrive: {one.error}'}")
    return 0 if all(one.arrived for one in done.data) else 1
