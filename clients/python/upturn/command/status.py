"""`upturn status`: a server's model and versions, and the runs in progress."""

from __future__ import annotations

from typing import Annotated

import typer

from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.examples import examples
from upturn.command.output import print_json
from upturn.command.runs import ACTIVE, run_line

EXAMPLES = examples("upturn status", "upturn status http://10.0.0.5:8000 --json")


def status(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="Same as --server.")] = None,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Show a server's model, champion, head, and the runs in progress."""
    with connect(url or server, key) as client:
        ready = client.ready()
        if as_json:
            print_json(ready)
            return
        active = [run for run in client.runs().data if run.state in ACTIVE]
    print(f"{ready.name} at {url or server}/v1: {ready.model} on {ready.engine}, {ready.weights} weights")
    print(f"champion @{ready.champion}, head @{ready.head}, context {ready.context_tokens} tokens")
    print(ready.placement)
    if ready.turns is not None and ready.turns.untrainable:
        print(ready.turns.summary)
    for run in active:
        print(run_line(run))
    if not active:
        print("no run in progress")
