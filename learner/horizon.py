"""The horizon of each learner step: how many turns an episode may take.

A pure function of the global learner step, so that resuming can neither skip nor lag a stage. (The reference keeps a
counter in its scheduler: resumed at step 100 of [10, 20, 30] every 100, it plays 20 turns for one step and then 30.)
Stands before step 7 of the straight line; the decision is only here.
"""

from __future__ import annotations

from clients.wire import FixedHorizon, HorizonSchedule, StepwiseHorizon

PRESETS: dict[str, StepwiseHorizon] = {
    "babyai": StepwiseHorizon(rounds=[6, 13, 20], every=100),
    "textcraft": StepwiseHorizon(rounds=[10, 20, 30], every=100),
    "sciworld": StepwiseHorizon(rounds=[10, 20, 30], every=100),
    "searchqa": StepwiseHorizon(rounds=[5, 8, 10], every=100),
    "webarena": StepwiseHorizon(rounds=[8, 12, 15], every=80),
}
"""ScalingInter-RL's schedules for its five tasks (arXiv 2509.08755 and its released scripts)."""


def horizon_at(schedule: HorizonSchedule, step: int) -> int:
    """Return the horizon of global learner step `step`, counted from 0.

    Stepwise: `rounds[min(step // every, last)]` (ScalingInter-RL, arXiv 2509.08755).
    """
    if step < 0:
        raise ValueError(f"a learner step is never negative, got {step}")
    if isinstance(schedule, FixedHorizon):
        return schedule.horizon
    return schedule.rounds[min(step // schedule.every, len(schedule.rounds) - 1)]
