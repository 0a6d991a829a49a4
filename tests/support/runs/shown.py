"""A run as the server shows it, for tests of what is printed about it."""

from __future__ import annotations

from typing import Any

from upturn.wire import RunConfig, RunView


def run_view(**changes: Any) -> RunView:
    """Return a running run of 20 steps."""
    fields: dict[str, Any] = {
        "id": "run_1", "state": "running", "trigger": "test", "config": RunConfig(steps=20), "step": 3, "reason": None,
        "learner": "tester", "first_version": 0, "last_version": None, "created_at": 0.0, "started_at": 0.0,
        "ended_at": None, "steps": [],
    }  # fmt: skip
    return RunView(**fields | changes)
