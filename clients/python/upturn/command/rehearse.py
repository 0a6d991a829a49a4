"""`upturn rehearse`: tries everything that tonight's runs will need, and prints each result as it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upturn.client import Client
from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.examples import examples
from upturn.command.output import print_json
from upturn.command.runs import read_config
from upturn.wire import RehearsalCheck, RehearsalRequest, RehearsalView

EXAMPLES = examples("upturn rehearse", "upturn rehearse nightly --limit 300", "upturn rehearse --run run.toml --json")
WIDTH = 7
"""Characters of the longest result."""


def rehearse(
    trigger: Annotated[
        str | None, typer.Argument(help="Rehearse the run of this trigger only.", show_default=False)
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="TOML or JSON file of a run's settings, rehearsed instead of the scheduled runs.",
        ),
    ] = None,
    limit_s: Annotated[
        float,
        typer.Option(
            "--limit", metavar="S", min=1, max=3600, help="Seconds; what is not finished by then counts as failed."
        ),
    ] = 120.0,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> int:
    """Try everything that tonight's training runs will need: data, environments, memory, the gate, and notifications.

    Nothing is trained, published, or recorded, and the server keeps serving. The exit status is 1 if anything failed.
    """
    if trigger is not None and run is not None:
        raise typer.BadParameter("name a trigger or a file, not both")
    request = RehearsalRequest(trigger=trigger, config=None if run is None else read_config(run), limit_s=limit_s)
    with connect(server, key) as client:
        view = _followed(client, request, quiet=as_json)
    if as_json:
        print_json(view)
    else:
        print(_summary(view))
    return 1 if view.failed or view.state != "done" else 0


def _followed(client: Client, request: RehearsalRequest, *, quiet: bool) -> RehearsalView:
    """Start a rehearsal and print its checks as they are known; end it if this command is interrupted."""
    started = client.start_rehearsal(request)
    shown = 0

    def show(view: RehearsalView) -> None:
        nonlocal shown
        for check in view.checks[shown:]:
            if not quiet:
                print(_line(check), flush=True)
        shown = len(view.checks)

    try:
        return client.wait_for_rehearsal(started.id, show)
    except KeyboardInterrupt:
        client.cancel_rehearsal(started.id)
        raise


def _line(check: RehearsalCheck) -> str:
    about = check.name if check.run is None else f"{check.name} ({check.run})"
    return f"{check.result:<{WIDTH}}  {about}: {check.text}"


def _summary(view: RehearsalView) -> str:
    counts = {result: sum(check.result == result for check in view.checks) for result in ("ok", "warning", "failed")}
    listed = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    return f"{view.state} in {view.seconds:.0f} s: {listed}"
