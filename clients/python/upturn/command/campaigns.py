"""`upturn campaigns`: all campaigns, or the nights of one."""

from __future__ import annotations

from typing import Annotated

import typer

from upturn.command.connection import LOCAL, AsJson, Key, Server, connect
from upturn.command.examples import examples
from upturn.command.output import print_json, print_table, time_text
from upturn.wire import CampaignView

EXAMPLES = examples("upturn campaigns", "upturn campaigns nightly --json")


def campaigns(
    name: Annotated[str | None, typer.Argument(help="Show the nights of this campaign.", show_default=False)] = None,
    server: Server = LOCAL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """List the campaigns, or the nights of one: what each trained, and what was decided."""
    with connect(server, key) as client:
        found = client.campaigns().data if name is None else [client.campaign(name)]
    if as_json:
        print_json(found if name is None else found[0])
    elif name is None:
        print_table(
            ("campaign", "step", "reverts", "continues", "created"),
            [
                (each.name, str(each.step), str(each.attempt), _continues(each), time_text(each.created_at))
                for each in found
            ],
        )
    else:
        print_table(
            ("night", "run", "state", "outcome", "steps", "horizon", "version", "started"),
            [
                (
                    str(number),
                    night.run_id,
                    night.state,
                    night.outcome,
                    f"{night.first_step}-{night.first_step + night.steps} ({night.trained_steps} trained)",
                    "-" if night.horizon is None else str(night.horizon),
                    "-" if night.last_version is None else f"@{night.last_version}",
                    "-" if night.started_at is None else time_text(night.started_at),
                )
                for number, night in enumerate(found[0].nights, 1)
            ],
        )


def _continues(campaign: CampaignView) -> str:
    return campaign.follows or "the champion"
