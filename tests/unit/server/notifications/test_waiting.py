"""A run that waits for ever is told, once for each wait, with what it waits for."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session

from server.notifications import outbox
from server.notifications.events import Event
from server.notifications.waiting import AFTER_START_S, from_waiting
from server.store.tables import BatchRow, CampaignRow, NotificationTargetRow, RunRow
from tests.support.notifications.receiver import Receiver
from tests.support.notifications.told import until
from tests.unit.server.notifications.conftest import Server

HOUR = 3600.0
LIMIT = 2 * HOUR


def run(session: Session, name: str = "run_1", **fields: Any) -> RunRow:
    row = RunRow(id=name, **{"state": "queued", "trigger": "t", "config": {}, "step": 0, "created_at": 0.0, **fields})
    session.add(row)
    session.flush()
    return row


def found(session: Session, now: float, since: float = 0.0) -> list[Event]:
    """Return what a target is told, and note it as told."""
    target = session.get(NotificationTargetRow, "webhook")
    if target is None:
        target = NotificationTargetRow(name="webhook", since=since, promotion_id=0)
        session.add(target)
    events = list(from_waiting(session, target, LIMIT, now))
    outbox.add(session, {"webhook": events}, "server", now)
    session.flush()
    return events


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "no learner has claimed it"),
        ({"state": "paused", "reason": "outside of the window 22:00-06:00"}, "it is paused (outside of the window"),
        ({"state": "running", "learner": "l", "lease_until": 60.0}, "its learner is gone"),
        ({"state": "running", "learner": "l", "lease_until": 9e9, "step": 3}, "step 3 waits for its episodes"),
    ],
)
def test_a_run_that_does_not_go_on_is_told_once_with_what_it_waits_for(
    session: Session, fields: dict[str, Any], reason: str
) -> None:
    run(session, **fields)
    assert found(session, LIMIT - 1) == []
    (event,) = found(session, 3 * HOUR)
    assert (event.type, event.run, event.path) == ("run.waiting", "run_1", "/v1/runs/run_1")
    assert reason in (event.reason or "") and "run_1 has not begun a step for 3 h" in event.text
    assert (event.at, event.figures["waiting_h"]) == (LIMIT, 3.0)
    assert found(session, 300 * HOUR) == []


@pytest.mark.parametrize("fields", [{"state": "running"}, {"state": "done", "ended_at": 1.0, "gate": "due"}])
def test_a_queued_run_names_the_run_that_it_waits_for(session: Session, fields: dict[str, Any]) -> None:
    run(session, "run_0", **{"resumed_at": 3 * HOUR, **fields})
    run(session)
    (event,) = found(session, 3 * HOUR)
    assert event.reason == "it is queued behind run run_0, which is running or not decided"


def test_a_queued_run_names_the_paused_run_of_its_campaign(session: Session) -> None:
    session.add(CampaignRow(id="camp_1", name="nightly", created_at=0.0))
    session.flush()
    paused = {"state": "paused", "started_at": 1.0, "resumed_at": 3 * HOUR}
    run(session, "run_0", campaign_id="camp_1", **paused)
    run(session, campaign_id="camp_1")
    (event,) = found(session, 3 * HOUR)
    assert event.reason == "run run_0 of its campaign is paused and must end first; resume or cancel that one"


def test_a_step_ends_a_wait_and_the_next_wait_is_told_again(session: Session) -> None:
    row = run(session, state="running", learner="l", lease_until=9e9)
    assert len(found(session, 3 * HOUR)) == 1
    session.add(BatchRow(id="b", run_id=row.id, step=0, horizon=1, state="gathering", stats={}, created_at=4 * HOUR))
    session.flush()
    assert found(session, 5 * HOUR) == []
    assert len(found(session, 7 * HOUR)) == 1
    row.resumed_at = 8 * HOUR
    assert found(session, 9 * HOUR) == []
    assert len(found(session, 11 * HOUR)) == 1


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_run_that_has_ended_does_not_wait(session: Session, state: str) -> None:
    run(session, state=state, ended_at=1.0)
    assert found(session, 300 * HOUR) == []


def test_a_wait_that_was_over_the_limit_before_a_target_was_configured_is_not_told(session: Session) -> None:
    run(session)
    assert found(session, 4 * HOUR, since=3 * HOUR) == []


async def test_a_server_that_starts_gives_a_run_time_to_go_on_before_it_tells(
    server: Server, receiver: Receiver
) -> None:
    async with server(waiting_h=2) as parts:
        now = parts.notifications.clock()
        await parts.writer.write(lambda session: run(session, created_at=now - LIMIT + 60))
        for later in (30, AFTER_START_S - 30):
            parts.notifications.clock = lambda later=later: now + later
            await parts.notifications.look()
        assert receiver.types == []
        parts.notifications.clock = lambda: now + AFTER_START_S
        await until(lambda: receiver.got)
        await parts.notifications.look()
    assert receiver.types == ["run.waiting"]
    assert receiver.got[0].event["run"] == "run_1"
