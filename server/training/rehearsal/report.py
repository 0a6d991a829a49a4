"""The report of a rehearsal: one line for each thing that was tried, whatever became of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from server.errors import UpturnError
from server.store.database import BROKEN
from upturn.wire import RehearsalCheck
from upturn.wire.rehearsals import Result

log = logging.getLogger("upturn.rehearsal")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    result: Result
    text: str
    """One sentence; unless it is ok, with what to do."""
    name: str | None = None
    """What was tried, if not all that the check is named after."""

    def of(self, name: str) -> Finding:
        """Return the finding under another name."""
        return replace(self, name=name)


def ok(text: str, name: str | None = None) -> Finding:
    """Return a finding that needs no action."""
    return Finding("ok", text, name)


def warning(text: str, name: str | None = None) -> Finding:
    """Return a finding that may be unintended."""
    return Finding("warning", text, name)


def failed(text: str, name: str | None = None) -> Finding:
    """Return a finding that will go wrong at night."""
    return Finding("failed", text, name)


class Report:
    """Collects the lines of one rehearsal."""

    def __init__(self) -> None:
        self.checks: list[RehearsalCheck] = []
        self.pending: list[str] = []
        """Names of the checks in progress."""
        self._planned: dict[tuple[str, str], None] = {}
        """What has not begun, by run."""

    def plan(self, run: str, *what: str) -> None:
        """Note what will be tried for a run, so that `end` reports what was not."""
        self._planned |= dict.fromkeys((run, one) for one in what)

    def begin(self, run: str, what: str) -> None:
        """Note that something planned begins."""
        self._planned.pop((run, what), None)

    def end(self) -> None:
        """Report what was planned and has not begun."""
        for run, what in self._planned:
            self.add(what, [failed("not begun when the rehearsal ended: give it more time")], run)
        self._planned.clear()

    async def attempt(
        self,
        name: str,
        limit_s: float,
        work: Callable[[], Awaitable[Iterable[Finding]]],
        run: str | None = None,
    ) -> bool:
        """Make a check, and report what it finds; return whether nothing failed.

        An error is a finding too. A check that is not finished in time, or that is cancelled, has failed.

        Args:
            name: what is tried.
            limit_s: how long that may take.
            work: tries it.
            run: the triggers whose run needs it.
        """
        began, shown = time.monotonic(), f"{name} ({run})" if run else name
        self.pending.append(shown)
        try:
            async with asyncio.timeout(limit_s):
                findings = list(await work())
        except TimeoutError:
            findings = [failed(f"not finished within {limit_s:.0f} s: see the server's log, or give it more time")]
        except asyncio.CancelledError:
            self.add(name, [failed("not finished when the rehearsal ended: give it more time")], run, began)
            raise
        except UpturnError as error:
            findings = [failed(error.message)]
        except BROKEN as error:
            log.warning("the rehearsal cannot read the database: %s", error)
            findings = [failed("the database cannot be read: see the server's log")]
        except Exception as error:
            log.exception("the rehearsal's check of %s failed", name)
            findings = [failed(f"{type(error).__name__}: see the server's log")]
        finally:
            self.pending.remove(shown)
        self.add(name, findings, run, began)
        return all(finding.result != "failed" for finding in findings)

    def add(self, name: str, findings: Iterable[Finding], run: str | None = None, began: float | None = None) -> None:
        """Report findings; `began` is a time of the monotonic clock."""
        seconds = 0.0 if began is None else max(0.0, time.monotonic() - began)
        self.checks += [
            RehearsalCheck(name=one.name or name, result=one.result, text=one.text, run=run, seconds=seconds)
            for one in findings
        ]
