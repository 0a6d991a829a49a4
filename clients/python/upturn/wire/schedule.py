"""The schedule: triggers that start training runs, and what each of them waits for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from upturn.wire.base import Message
from upturn.wire.run_config import RunConfig

TriggerName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]


class _Trigger(Message):
    """What all triggers have."""

    model_config = ConfigDict(allow_inf_nan=False)

    run: RunConfig | None = None
    """The run to start; None takes the server's configured one (`schedule.run`)."""


class CronTrigger(_Trigger):
    """At times of the day, week or year."""

    kind: Literal["cron"]
    cron: str = Field(max_length=100)
    """Minute, hour, day of the month, month, day of the week (0 and 7 are Sunday), such as `0 3 * * 1-5`."""
    timezone: str = Field(default="UTC", max_length=64)
    """Its time zone, such as `Europe/Berlin`."""


class IntervalTrigger(_Trigger):
    """Every so many seconds, counted from when the trigger was set."""

    kind: Literal["interval"]
    every_s: float = Field(ge=1, le=1e9)


class EpisodesTrigger(_Trigger):
    """After so many newly scored episodes: of live agents, or environments that others play."""

    kind: Literal["episodes"]
    count: int = Field(ge=1, le=1_000_000_000)


class IdleTrigger(_Trigger):
    """When no live turn came for so long; once for each such pause."""

    kind: Literal["idle"]
    minutes: float = Field(gt=0, le=1e6)


Trigger = Annotated[CronTrigger | IntervalTrigger | EpisodesTrigger | IdleTrigger, Field(discriminator="kind")]


class TriggerCreate(Message):
    """Set a trigger."""

    name: TriggerName
    trigger: Trigger


class TriggerView(Message):
    """A trigger and where it stands."""

    name: str
    source: Literal["settings", "api"]
    """Where it was set; one of the settings is changed there."""
    trigger: Trigger
    next_at: float | None
    """Next time of a cron or interval trigger."""
    due_since: float | None
    """It would have started a run at this time, and waits; times missed meanwhile are one."""
    waits_for: str
    """What has to happen before it starts a run."""
    fired_at: float | None
    """When it last started a run."""
    fired_run: str | None
    """The run."""
    fired_why: str | None
    """Why it did."""


class TriggerList(Message):
    """All triggers by name."""

    data: list[TriggerView]


class ScheduleView(Message):
    """When runs start by themselves, and what holds them back."""

    windows: list[str]
    """When triggers may start runs; none is always."""
    window_open: bool
    window_opens_at: float | None
    """Next opening, where it is closed."""
    unfinished_run: str | None
    """The run that has to end before a trigger starts another."""
    triggers: list[TriggerView]
