"""Rows that notifications report, and waiting until they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from server.notifications.settings import NotifySettings
from server.store.tables import NotificationRow
from server.versions import ledger
from server.wiring.parts import Parts
from tests.support.in_process import claimed, rows
from tests.support.notifications.receiver import SECRET, Receiver
from upturn.wire import GateEvidence, RunEnd


def notify(receiver: Receiver | None = None, **more: Any) -> NotifySettings:
    """Return settings that send to a receiver, if there is one."""
    web = {} if receiver is None else {"webhook": receiver.url, "secret": SECRET}
    return NotifySettings.model_validate({"server": "test-server", **web, **more})


async def decide(parts: Parts, action: str, evidence: GateEvidence | None = None, **more: Any) -> int:
    """Write a row of the ledger about version 0; return its number."""
    row = ledger.new_entry(0, 0, action, more.pop("reason", f"{action} it"), more.pop("by", "gate"), evidence=evidence)
    await parts.writer.write(lambda session: session.add(row))
    return row.id


async def end_run(parts: Parts, state: str, reason: str = "tested") -> str:
    """Let a run end without a trained step; return its id."""
    run = await claimed(parts)
    await parts.runs.end(run.id, RunEnd(learner="tester", state=state, reason=reason))  # type: ignore[arg-type]
    return run.id


async def until(condition: Callable[[], object], what: str = "the condition was not met") -> None:
    """Wait for a condition without blocking the event loop."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def told(parts: Parts, target: str = "webhook") -> list[tuple[str, str, int, str | None]]:
    """Return type, state, attempts and error of each event of a target, in order."""
    found = rows(parts, NotificationRow, NotificationRow.target == target)
    return [(row.type, row.state, row.attempts, row.error) for row in found]
