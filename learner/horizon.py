"""The horizon of each learner step: the maximum number of turns of an episode.

It is a pure function of the global learner step and of the recorded steps before it, so that resuming can neither skip
a stage nor fall behind. (The reference implementation keeps a counter in its scheduler: resumed at step 100 of [10, 20,
30] every 100, it plays 20 turns for one step and then 30.) Comes before step 7 of the straight line; the horizon is
decided only here.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from upturn.wire import AdaptiveHorizon, FixedHorizon, HorizonSchedule, RunStep, StepwiseHorizon

PRESETS: dict[str, StepwiseHorizon] = {
    "babyai": StepwiseHorizon(rounds=[6, 13, 20], every=100),
    "textcraft": StepwiseHorizon(rounds=[10, 20, 30], every=100),
    "sciworld": StepwiseHorizon(rounds=[10, 20, 30], every=100),
    "searchqa": StepwiseHorizon(rounds=[5, 8, 10], every=100),
    "webarena": StepwiseHorizon(rounds=[8, 12, 15], every=80),
}
"""ScalingInter-RL's schedules for its five tasks (arXiv 2509.08755 and its released scripts)."""

STAYED, SUCCESS_STOPPED_RISING, TOO_MANY_TRUNCATED = 0, 1, 2
"""Why an adaptive schedule advanced to the next stage at a step; the metric `horizon_moved`."""


def horizon_at(schedule: HorizonSchedule, step: int, recorded: Sequence[RunStep] = ()) -> int:
    """Return the horizon of global learner step `step`, counted from 0.

    Args:
        schedule: the run's schedule.
        step: global learner step.
        recorded: all finished steps before it, oldest first; only an adaptive schedule reads them.

    Raises:
        ValueError: the step is negative, or an adaptive schedule has too few recorded steps.
    """
    if step < 0:
        raise ValueError(f"a learner step is never negative, got {step}")
    if isinstance(schedule, FixedHorizon):
        return schedule.horizon
    if isinstance(schedule, StepwiseHorizon):  # ScalingInter-RL, arXiv 2509.08755
        return schedule.rounds[min(step // schedule.every, len(schedule.rounds) - 1)]
    return schedule.rounds[stage_at(schedule, step, recorded)[0]]


def stage_at(schedule: AdaptiveHorizon, step: int, recorded: Sequence[RunStep]) -> tuple[int, int]:
    """Return the stage of an adaptive schedule at a step, counted from 0, and why it advanced at this step.

    The stage begins at 0 and is derived from all steps before this one. After each of them, considering only the steps
    of the current stage, it advances if the mean success of the last window is less than `min_gain` above that of the
    window before, or if the last window's mean share of truncated episodes is above `max_truncated`. Steps without the
    figure are skipped.

    Args:
        schedule: the run's schedule.
        step: global learner step, from 0.
        recorded: all finished steps before it, oldest first.

    Raises:
        ValueError: a step before this one is not recorded.
    """
    if [s.step for s in recorded[:step]] != list(range(step)):
        raise ValueError(f"the horizon of step {step} needs all {step} recorded steps before it")
    stage, moved, success, truncated = 0, STAYED, [], []
    for past in recorded[:step]:
        success += _figures(past, "success_rate", "mean_reward")
        truncated += _figures(past, "truncated_share")
        moved = _reason(schedule, success, truncated)
        if moved and stage < len(schedule.rounds) - 1:
            stage, success, truncated = stage + 1, [], []
        else:
            moved = STAYED
    return stage, moved


def horizon_metrics(schedule: HorizonSchedule, step: int, recorded: Sequence[RunStep]) -> dict[str, float]:
    """Return the stage as metrics of the step; empty unless the schedule is adaptive."""
    if not isinstance(schedule, AdaptiveHorizon):
        return {}
    stage, moved = stage_at(schedule, step, recorded)
    return {"horizon_stage": float(stage), "horizon_moved": float(moved)}


def _reason(schedule: AdaptiveHorizon, success: list[float], truncated: list[float]) -> int:
    """Return why the stage advances now, or `STAYED`."""
    window = schedule.window
    if len(truncated) >= window and fmean(truncated[-window:]) > schedule.max_truncated:
        return TOO_MANY_TRUNCATED
    if len(success) >= 2 * window:
        gain = fmean(success[-window:]) - fmean(success[-2 * window : -window])
        return SUCCESS_STOPPED_RISING if gain < schedule.min_gain else STAYED
    return STAYED


def _figures(step: RunStep, *names: str) -> list[float]:
    """Return the first of the named figures that a step has, in a list; empty if the step lacks all of them."""
    return [step.metrics[name] for name in names if name in step.metrics][:1]
