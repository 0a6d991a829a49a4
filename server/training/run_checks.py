"""What a requested run must fulfil before it is queued."""

from __future__ import annotations

from server.engines.precision import Precision
from server.errors import BadRequest
from upturn.wire import HorizonSchedule, RunConfig


def check_config(config: RunConfig, served: str, precision: Precision | None) -> None:
    """Refuse a run that a server cannot serve, or whose horizon could never grow.

    Args:
        config: the run's config.
        served: the kind of weights that the server serves, `full` or `adapter`.
        precision: data type in which its engine computes; None if it is not known yet.

    Raises:
        BadRequest: the server serves another kind of weights, its engine computes in float16, or the schedule never
            leaves its first horizon.
    """
    if precision == "float16":
        raise BadRequest(
            "the engine computes in float16, in which nothing can be trained: start the server with "
            "--engine.dtype bfloat16 or float32",
            code="untrainable_precision",
        )
    if config.kind not in (None, served):
        raise BadRequest(
            f"this server serves {served} weights, the run trains {config.kind}",
            param="config.kind",
            code="wrong_kind",
        )
    stage = steps_at_first_horizon(config.schedule)
    steps = config.steps if config.budget.steps is None else min(config.steps, config.budget.steps)
    if stage is not None and config.campaign is None and steps <= stage:
        raise BadRequest(
            f"the run has {steps} steps, and its schedule stays at the first horizon for at least {stage}: name "
            "a campaign, whose runs continue one another, or choose a fixed horizon, shorter stages, or more steps",
            param="config.schedule",
            code="schedule_never_advances",
        )


def steps_at_first_horizon(schedule: HorizonSchedule) -> int | None:
    """Return for how many learner steps a schedule stays at its first horizon, at least; None if it has no other."""
    if schedule.kind == "fixed" or len(set(schedule.rounds)) == 1:
        return None
    stages = next(number for number, horizon in enumerate(schedule.rounds) if horizon != schedule.rounds[0])
    return stages * (schedule.every if schedule.kind == "stepwise" else schedule.window)
