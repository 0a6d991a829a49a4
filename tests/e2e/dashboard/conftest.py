"""A server with a promoted and a rejected version, and the texts of someone who means harm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.training.scheduling.settings import ScheduleSettings
from tests.support.live import Live
from tests.support.pages.signed_in import Visitor
from tests.support.runs.gated import ENVIRONMENT, served, trained
from upturn.wire import CronTrigger, PlayPlan, RunConfig, RunRequest, RunView, StepwiseHorizon

EVIL = """<img src=x onerror=alert(1)>"'><script>alert(2)</script>{{7*7}}"""
CONFIGURED = RunConfig(
    steps=4,
    campaign="nightly",
    kind="full",
    schedule=StepwiseHorizon(rounds=[2, 4], every=2),
    play=PlayPlan(environment=ENVIRONMENT, split="train", groups=1, group_size=2),
)


@dataclass(frozen=True)
class Decided:
    """The server and its runs."""

    live: Live
    promoted: RunView
    rejected: RunView
    queued: RunView
    """Its trigger is a hostile text."""

    @property
    def visitor(self) -> Visitor:
        """Someone who looks; the server needs no key."""
        return Visitor(self.live)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decided]:
    """A server whose gate has promoted version 1 and rejected version 2."""
    schedule = ScheduleSettings(
        run=CONFIGURED,
        windows=["01:00-06:00 Europe/Berlin"],
        triggers={"yearly": CronTrigger(kind="cron", cron="0 3 29 2 *", timezone="Europe/Berlin")},
    )
    with served(tmp_path_factory.mktemp("decided"), schedule=schedule) as live:
        promoted, rejected = trained(live, "win"), trained(live, "add 1")
        queued = live.client.create_run(RunRequest(config=CONFIGURED, trigger=EVIL))
        live.client.promote(0, EVIL)
        live.client.promote(1, "back to the better one")
        yield Decided(live, promoted, rejected, queued)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Live]:
    """A server on which nothing has happened."""
    with served(tmp_path) as live:
        yield live
