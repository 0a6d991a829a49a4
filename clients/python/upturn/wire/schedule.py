"""The schedule: triggers that start training runs, and the condition that each waits for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from upturn.wire.base import Message
from upturn.wire.run_config import RunConfig

TriggerName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]


class _Trigger(Message):
    """Fields of every trigger."""

    model_config = ConfigDict(allow_inf_nan=False)

    run: RunConfig | None = None
    """The run to start; default: the server's configured run (`schedule.run`)."""


class CronTrigger(_Trigger):
    """Starts a run at the times of a cron expression."""

    kind: Literal["cron"]
    cron: str = Field(max_length=100)
    """Minute, hour, day of the month, month, day of the week (0 and 7 are Sunday), such as `0 3 * * 1-5`."""
    timezone: str = Field(default="UTC", max_length=64)
    """Time zone of the expression, such as `Europe/Berlin`."""


class IntervalTrigger(_Trigger):
    """Starts a run every `every_s` seconds, counted from when the trigger was set."""

    kind: Literal["interval"]
    every_s: float = Field(ge=1, le=1e9)


class EpisodesTrigger(_Trigger):
    """Starts a run after `count` newly scored episodes: of live agents, or in environments that other programs play."""

    kind: Literal["episodes"]
    count: int = Field(ge=1, le=1_000_000_000)


class IdleTrigger(_Trigger):
    """Starts a run when there was no live turn for `minutes`; once per pause."""

    kind: Literal["idle"]
    minutes: float = Field(gt=0, le=1e6)


Trigger = Annotated[CronTrigger | IntervalTrigger | EpisodesTrigger | IdleTrigger, Field(discriminator="kind")]


class TriggerCreate(Message):
    """Set a trigger."""

    name: TriggerName
    trigger: Trigger


class TriggerView(Message):
    """A trigger and its state."""

    name: str
    source: Literal["settings", "api"]
    """Where it was set. A trigger from the settings can only be changed there."""
    trigger: Trigger
    next_at: float | None
    """Next time of a cron or interval trigger, in Unix seconds."""
    due_since: float | None
    """When it became due, if it waits to start a run. Further times that pass while it waits do not add runs."""
    waits_for: str
    """What must happen before it starts a run."""
    fired_at: float | None
    """When it last started a run."""
    fired_run: str | None
    """The run it last started."""
    fired_why: str | None
    """Why it started that run."""


class TriggerList(Message):
    """All triggers, sorted by name."""

    data: list[TriggerView]


class ScheduleView(Message):
    """Triggers and windows, and what currently keeps triggers from starting a run."""

    windows: list[str]
    """Times of day when triggers may start runs; empty means always."""
    window_open: bool
    """Whether triggers may start runs now."""
    window_opens_at: float | None
    """When the next window opens, in Unix seconds; None while one is open."""
    unfinished_run: str | None
    """The run that must end before a trigger starts another."""
    triggers: list[TriggerView]
    run: RunConfig | None = None
    """The server's configured run (`schedule.run`), which triggers and requests without a config start."""
    pause_outside_windows: bool = False
    """A running run is paused when its window closes."""
