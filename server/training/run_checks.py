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
    stage = steps_of_first_stage(config.schedule)
    if stage is not None and config.campaign is None and config.steps <= stage:
        raise BadRequest(
            f"the run has {config.steps} steps, and its schedule stays at the first horizon for at least {stage}: name "
            "a campaign, whose runs continue one another, or choose a fixed horizon, shorter stages, or more steps",
            param="config.schedule",
            code="schedule_never_advances",
        )


def steps_of_first_stage(schedule: HorizonSchedule) -> int | None:
    """Return for how many learner steps a schedule stays at its first horizon, at least; None if it has no other."""
    if schedule.kind == "fixed" or len(set(schedule.rounds)) == 1:
        return None
    return schedule.every if schedule.kind == "stepwise" else schedule.window
