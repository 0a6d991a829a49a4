"""Rehearsals of a live server, and what they must not change."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from tests.support.live import Live
from tests.support.runs.gated import ENVIRONMENT, PLAN
from upturn.wire import (
    CronTrigger,
    FixedHorizon,
    PlayPlan,
    RehearsalCheck,
    RehearsalRequest,
    RunBudget,
    RunConfig,
)

CONFIG = RunConfig(
    campaign="nightly",
    steps=4,
    schedule=FixedHorizon(horizon=3),
    play=PlayPlan(environment=ENVIRONMENT, split="train", groups=2, group_size=2),
    evaluation=PLAN,
    budget=RunBudget(minutes=60),
)
NIGHTLY = CronTrigger(kind="cron", cron="0 1 * * *", timezone="Europe/Berlin", run=CONFIG)


def rehearsed(live: Live, config: RunConfig | None = None, **more: Any) -> list[RehearsalCheck]:
    """Rehearse, and return the results."""
    started = live.client.start_rehearsal(RehearsalRequest(config=config, **more))
    return live.client.wait_for_rehearsal(started.id).checks


def failures(checks: list[RehearsalCheck]) -> dict[str, str]:
    """Return what failed, by name."""
    return {check.name: check.text for check in checks if check.result == "failed"}


def tables(live: Live) -> dict[str, list[str]]:
    """Return every row of every table."""
    with closing(sqlite3.connect(live.parts.settings.data_dir / "upturn.db")) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        return {name: sorted(map(repr, connection.execute(f'select * from "{name}"'))) for name in names}
