"""Settings of the schedule."""

from __future__ import annotations

from pydantic import model_validator

from server.section import Section
from server.training.scheduling.triggers import check_trigger
from server.training.scheduling.windows import Windows
from upturn.wire import RunConfig, Trigger, TriggerName


class ScheduleSettings(Section):
    """When runs start without a request."""

    triggers: dict[TriggerName, Trigger] = {}
    """Triggers that start runs, by name, such as `{"nightly": {"kind": "cron", "cron": "0 3 * * *", "timezone":
    "Europe/Berlin"}}`. Without triggers, runs start on request only."""
    windows: list[str] = []
    """Times of day when triggers may start runs, such as `01:00-06:00 Europe/Berlin`. Empty means always."""
    pause_outside_windows: bool = False
    """Pause a running run when its window closes, and resume it when the next one opens."""
    run: RunConfig | None = None
    """The run that triggers start, unless they configure their own."""

    @model_validator(mode="after")
    def triggers_can_start_something(self) -> ScheduleSettings:
        """Refuse triggers that never fire or have no run to start, and invalid windows."""
        Windows(self.windows)
        for name, trigger in self.triggers.items():
            check_trigger(trigger)
            if trigger.run is None and self.run is None:
                raise ValueError(f"trigger {name!r} needs a run of its own, or schedule.run")
        return self
