"""Which runs a rehearsal is about: those that the triggers start, or one that the request names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.errors import NotFound, UpturnError
from server.training.scheduling.schedule import Schedule
from upturn.wire import RehearsalRequest, RunConfig, TriggerView


@dataclass(frozen=True, slots=True)
class Tonight:
    """One run, and what starts it."""

    name: str
    """The names of its triggers."""
    config: RunConfig


def triggers_of(request: RehearsalRequest, triggers: Sequence[TriggerView]) -> list[TriggerView]:
    """Return the triggers that a request is about; none for a config of its own.

    Raises:
        NotFound: there is no such trigger.
    """
    if request.trigger is not None:
        if not (named := [view for view in triggers if view.name == request.trigger]):
            raise NotFound(f"trigger {request.trigger!r} does not exist", param="trigger", code="trigger_not_found")
        return named
    return [] if request.config is not None else list(triggers)


def tonight(
    request: RehearsalRequest, triggers: Sequence[TriggerView], schedule: Schedule, configured: RunConfig | None
) -> list[Tonight]:
    """Return the runs to rehearse, each once, however many triggers start it.

    Args:
        request: what was asked for.
        triggers: the triggers that it is about.
        schedule: says what a trigger starts.
        configured: the run of the settings, which is rehearsed if there is no trigger.
    """
    if request.config is not None:
        return [Tonight(request.trigger or "request", request.config)]
    runs: list[tuple[list[str], RunConfig]] = []
    for view in triggers:
        try:
            config = schedule.run_of(view.trigger)
        except UpturnError:  # Reported with the trigger.
            continue
        same = next((names for names, known in runs if known == config), None)
        if same is None:
            runs.append(([view.name], config))
        else:
            same.append(view.name)
    if not triggers and configured is not None:
        runs.append((["schedule.run"], configured))
    return [Tonight(", ".join(names), config) for names, config in runs]
