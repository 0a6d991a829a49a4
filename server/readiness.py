"""Whether this server can do its work: a list of named checks, and the report that `/readyz` shows.

A check returns at once what is known, or asks something that answers quickly. It says nothing secret: the route needs
no key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from upturn.wire import PartView

log = logging.getLogger("upturn.readiness")
LIMIT_S = 3.0
"""Seconds after which a check that has not answered counts as failed."""


@dataclass(frozen=True, slots=True)
class Part:
    """The state of one part of the server."""

    ok: bool
    state: str
    """One or two words, such as `ok` or `no space`."""
    advice: str | None = None
    """What is wrong and what to do, in one sentence."""
    blocks: bool = True
    """The server is not ready while this part is not ok."""
    code: str = "not_ready"
    """Code of the error while this part blocks."""
    figures: Mapping[str, float] = field(default_factory=dict)

    def view(self) -> PartView:
        """Return the part as a message."""
        return PartView(ok=self.ok, state=self.state, advice=self.advice, figures=dict(self.figures))


Check = Callable[[], Awaitable[Part]]


class Readiness:
    """Asks all checks, each at most once at a time."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._asked: dict[str, asyncio.Task[Part]] = {}

    def add(self, name: str, check: Check) -> None:
        """Add a check."""
        self._checks[name] = check

    async def parts(self) -> dict[str, Part]:
        """Return the state of every part, within `LIMIT_S`."""
        tasks = {name: self._ask(name) for name in self._checks}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=LIMIT_S)
        return {name: _outcome(name, task) for name, task in tasks.items()}

    def _ask(self, name: str) -> asyncio.Task[Part]:
        task = self._asked.get(name)
        if task is None or task.done():
            task = self._asked[name] = asyncio.ensure_future(self._checks[name]())
        return task


def _outcome(name: str, task: asyncio.Task[Part]) -> Part:
    if not task.done():
        return Part(False, "no answer", f"{name} has not answered for {LIMIT_S:g} s: see the server's log")
    if task.cancelled() or task.exception() is not None:
        log.error("the check of %s failed: %s", name, task.exception() if not task.cancelled() else "cancelled")
        return Part(False, "unknown", f"the check of {name} failed: see the server's log")
    return task.result()
