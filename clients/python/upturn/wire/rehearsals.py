"""Rehearsals: everything that tonight's runs will need, tried once. They train, publish, and record nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upturn.wire.base import Message
from upturn.wire.run_config import RunConfig

Result = Literal["ok", "warning", "failed"]


class RehearsalRequest(Message):
    """Rehearse the runs of all triggers, of one trigger, or of one config."""

    trigger: str | None = Field(default=None, min_length=1, max_length=100)
    """Only the run of this trigger."""
    config: RunConfig | None = None
    """This run instead of the scheduled ones."""
    limit_s: float = Field(default=120.0, ge=1, le=3600)
    """Seconds after which the rehearsal ends; what is not finished by then counts as failed."""


class RehearsalCheck(Message):
    """One line of a rehearsal."""

    name: str
    """What was tried, such as `schedule` or `environment textcraft`."""
    result: Result
    """`failed` will go wrong tonight, or could not be tried; `warning` may be unintended."""
    text: str
    """What was found, and what to do unless it is ok."""
    run: str | None = None
    """The triggers whose run needs it; None concerns the whole server."""
    seconds: float = Field(ge=0)
    """Its duration."""


class RehearsalView(Message):
    """A rehearsal and its results so far. It exists in the server's memory only, until the next one begins."""

    id: str
    state: Literal["running", "done", "cancelled"]
    checks: list[RehearsalCheck]
    """In the order in which they were finished."""
    pending: list[str]
    """Names of the checks that are in progress."""
    created_at: float
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(check.result == "failed" for check in self.checks)
