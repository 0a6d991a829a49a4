"""Rehearses the gate: whether it could decide on the run's candidate."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from server.training.evaluations import last_horizon
from server.training.judging import sign_flips
from server.training.judging.error_budget import next_level
from server.training.judging.evaluation_tasks import EvaluationTasks
from server.training.rehearsal.report import Finding, failed, ok
from server.training.settings import GateSettings
from upturn.wire import RunConfig

NO_PLAN = {
    "full": "has no evaluation plan: users get every version, untested; set evaluation to compare them",
    "adapter": "has no evaluation plan: users never get what it trains; set evaluation, or promote by hand",
}


def gate_findings(config: RunConfig, tasks: EvaluationTasks, rule: GateSettings, spent: float) -> Iterator[Finding]:
    """Yield whether a run's evaluation can lead to a decision.

    Args:
        config: the run's config, with an evaluation plan.
        tasks: the tasks of one decision.
        rule: the gate's rule.
        spent: sum of the levels of all decisions since the last promotion.
    """
    counts = {name: sum(len(listed[name]) for listed in tasks.rounds) for name in tasks.rounds[0]}
    few = {name: count for name, count in counts.items() if count < rule.min_tasks}
    for name, count in few.items():
        yield failed(
            f"{count} tasks of {name} decide, and gate.min_tasks is {rule.min_tasks}, so nothing can be promoted: name "
            "more tasks, or raise `draw`"
        )
    if few:
        return
    level, total = next_level(rule, spent), sum(counts.values())
    if not _could_pass(tasks, level):
        yield failed(
            f"even a gain on each of {total} tasks would not be significant at the level {level:.2g} of the next "
            "decision: name more tasks, or raise gate.max_false_promotions"
        )
    else:
        guards = f", then {len(tasks.guards)} guard environments" if tasks.guards else ""
        listed = " and ".join(f"{count} tasks of {name}" for name, count in counts.items())
        same = f"; those of {' and '.join(tasks.frozen)} are the same each night" if tasks.frozen else ""
        horizon, rounds = last_horizon(config.schedule), len(tasks.rounds)
        yield ok(f"{listed} decide at horizon {horizon} in up to {rounds} rounds{guards}{same}")


def _could_pass(tasks: EvaluationTasks, level: float) -> bool:
    """Return whether a candidate that wins every task that the champion loses would pass the test."""
    rounds = [np.ones(sum(map(len, listed.values()))) for listed in tasks.rounds]
    return sign_flips.evaluate(rounds, level).passed
