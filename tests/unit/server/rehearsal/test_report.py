"""Every check of a rehearsal ends as a line, whatever becomes of it."""

from __future__ import annotations

import asyncio

import pytest

from server.errors import NotFound
from server.training.rehearsal.report import Finding, Report, ok


async def found(error: BaseException | None = None) -> list[Finding]:
    if error is not None:
        raise error
    return [ok("here"), ok("there", "another")]


async def forever() -> list[Finding]:
    await asyncio.Event().wait()
    return []


async def test_findings_errors_and_exceeded_limits_are_lines() -> None:
    report = Report()
    assert await report.attempt("data", 10, found, "nightly")
    assert not await report.attempt("data", 10, lambda: found(NotFound("no split 'x'")))
    assert not await report.attempt("data", 10, lambda: found(KeyError("secret text")))
    assert not await report.attempt("data", 0.01, forever)
    assert [(c.name, c.result, c.run) for c in report.checks[:2]] == [
        ("data", "ok", "nightly"),
        ("another", "ok", "nightly"),
    ]
    assert [c.text for c in report.checks[2:]] == [
        "no split 'x'",
        "KeyError: see the server's log",
        "not finished within 0 s: see the server's log, or give it more time",
    ]
    assert report.pending == []


async def test_what_the_end_cuts_and_what_never_began_has_failed() -> None:
    report = Report()
    report.plan("nightly", "what it reads", "the learner")
    report.begin("nightly", "what it reads")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await report.attempt("engine", 60, forever)
    report.end()
    assert [(c.name, c.result) for c in report.checks] == [("engine", "failed"), ("the learner", "failed")]
    assert all("when the rehearsal ended" in c.text for c in report.checks)
