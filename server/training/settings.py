"""Settings of the learner, the schedule, the promotion gate, the live watch, and canaries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from server.section import Section
from server.training.triggers import check_trigger
from server.training.windows import Windows
from upturn.wire import RunConfig, Trigger, TriggerName


class LearnerSettings(Section):
    """The learner process."""

    start: bool = True
    """Start a learner on this machine when a run is due; False waits for one elsewhere (`python -m learner run`)."""
    processes: int = Field(default=1, ge=1)
    """Processes that share the model and each batch: one a GPU."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each process; None is torch's own choice."""
    nice: int = Field(default=0, ge=0, le=19)
    """How far it gives way to others on the same CPU cores: 0 shares evenly, 19 learns in what serving leaves."""
    gpu: int | None = Field(default=None, ge=0)
    """Its GPU; None takes a second one where there is one, else shares vLLM's."""
    gpu_memory: float = Field(default=0.45, gt=0, lt=1)
    """Its share of a GPU's memory that it has not for itself; more is an error of its own, not of vLLM's."""
    lease_s: float = Field(default=60.0, gt=1)
    """A learner that has not been heard of for so long has lost its run."""
    restarts: int = Field(default=3, ge=0)
    """How often a learner that died is started again within one run."""
    arguments: list[str] = []
    """More for its command line (`python -m learner run --help`), such as `["--activation-checkpointing"]`."""


class ScheduleSettings(Section):
    """When runs start by themselves."""

    triggers: dict[TriggerName, Trigger] = {}
    """What starts runs, by name, such as `{"nightly": {"kind": "cron", "cron": "0 3 * * *", "timezone":
    "Europe/Berlin"}}`; without any, runs start on request only."""
    windows: list[str] = []
    """When triggers may start runs, such as `01:00-06:00 Europe/Berlin`; none is always."""
    pause_outside_windows: bool = False
    """Pause a running run when its window closes, and resume it in the next."""
    run: RunConfig | None = None
    """The run to start, for triggers that name none of their own."""

    @model_validator(mode="after")
    def triggers_can_start_something(self) -> ScheduleSettings:
        """A trigger without a run, or one that never comes, would never train."""
        Windows(self.windows)
        for name, trigger in self.triggers.items():
            check_trigger(trigger)
            if trigger.run is None and self.run is None:
                raise ValueError(f"the trigger {name!r} needs a run of its own, or schedule.run")
        return self


class GateSettings(Section):
    """When a run's candidate becomes the champion. The values are ours."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of the bootstrap interval of the mean gain in success over all environments, whose lower bound decides."""
    min_gain: float = Field(default=0.0, ge=-1, lt=1)
    """The lower bound must be above it."""
    margin: float = Field(default=0.05, ge=0, le=1)
    """Success that no single environment may lose more of."""
    min_tasks: int = Field(default=10, ge=2)
    """Tasks with a verdict on both versions that every environment needs: over fewer an interval says little."""
    max_errors: float = Field(default=0.1, ge=0, lt=1)
    """Share of a version's episodes in an environment that may end without a verdict; above it nothing is decided."""
    max_invalid_rise: float = Field(default=0.05, ge=0, le=1)
    """Rise of the share of steps that could not be understood, in any environment."""
    max_tool_error_rise: float | None = Field(default=0.05, ge=0, le=1)
    """Rise of the share of tool calls that could not be read, in any environment; None is no bound."""
    max_latency_ratio: float | None = Field(default=None, gt=0)
    """How many times the champion's mean time of an answer the candidate's may be; None is no bound."""
    max_kl: float | None = Field(default=None, gt=0)
    """Mean over the run of `reference_kl`, nats a token; None is no bound."""
    min_entropy: float | None = Field(default=None, ge=0)
    """Mean over the run of `entropy`, nats a token; None is no bound."""


class WatchSettings(Section):
    """When live rewards take a new champion back. The values are ours."""

    enabled: bool = True
    """Compare the live rewards of a promoted version with those of the champion before, and roll back where it is
    worse; without live rewards nothing happens."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """How likely one that is no worse is rolled back at most, however often it is looked at."""
    window: int = Field(default=200, ge=2, le=2000)
    """Rewarded episodes of each version that are compared: the newest ones before, the first ones since."""
    min_episodes: int = Field(default=20, ge=1, le=2000)
    """Rewarded episodes of each that anything is decided on."""
    min_drop: float = Field(default=0.05, ge=0)
    """Fall of the mean reward that is tolerated."""
    low: float = -1.0
    """Lowest reward there is; lower ones count as this."""
    high: float = 1.0
    """Highest reward there is; higher ones count as this."""

    @model_validator(mode="after")
    def it_can_decide(self) -> WatchSettings:
        """A range of nothing, or a minimum beyond the window, would never decide."""
        if not self.low < self.high or self.min_drop >= self.high - self.low:
            raise ValueError("watch.high must be above watch.low, by more than watch.min_drop")
        if self.min_episodes > self.window:
            raise ValueError("watch.min_episodes cannot be above watch.window")
        return self


class CanarySettings(Section):
    """How much live traffic tries a candidate that the gate approved, before it becomes the champion."""

    share: float = Field(default=0.0, ge=0, lt=1)
    """Share of new live episodes that get the candidate; 0 promotes at once. It needs adapters."""
    by: Literal["episode", "key"] = "episode"
    """What is drawn: every episode by itself, or an API key with all its episodes."""
    min_episodes: int = Field(default=50, ge=1, le=2000)
    """Rewarded episodes of both versions after which a candidate that is no worse is promoted."""
    max_hours: float = Field(default=24.0, gt=0)
    """After so long it is promoted with fewer, where nothing shows that it is worse."""
