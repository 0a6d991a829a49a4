"""Which tasks decide on a run's candidate, in which rounds, and which only report: a pure function of plan and run.

A decision draws its tasks anew for each run, so that no season of nights learns to win on the same ones. Tasks that
report are the same for all plans and runs, chosen by a hash of their names, so that no decision ever sees them.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import partial

from server.errors import BadRequest
from server.training.data.curriculum import tasks_of_split
from upturn.wire import EvaluationPlan

LEAST = 10  # Tasks of each environment in a round, and of each guard environment.


@dataclass(frozen=True, slots=True)
class EvaluationTasks:
    """The tasks of one decision."""

    rounds: list[dict[str, list[str]]]
    """Tasks by environment, for each round; all environments are in every round."""
    report: dict[str, list[str]]
    """Tasks by environment that never decide."""
    guards: dict[str, list[str]]
    """Tasks by environment on which the candidate must not be worse."""
    frozen: list[str]
    """Environments whose tasks all decide, each time."""
    seed: int
    """Seed of the episodes that decide; drawn like the tasks."""


def evaluation_tasks(plan: EvaluationPlan, run_id: str) -> EvaluationTasks:
    """Return the tasks of a run's evaluation. May read files, so call it outside the event loop.

    Raises:
        NotFound: an environment or split does not exist.
        BadRequest: an environment has fewer tasks than the plan draws and reports, or than a guard needs.
    """
    drawn: dict[str, list[str]] = {}
    report: dict[str, list[str]] = {}
    frozen: list[str] = []
    for environment, listed in plan.tasks.items():
        pool = _listed(environment, listed)
        ranked = sorted(pool, key=partial(_rank, environment))
        report[environment], deciding = ranked[: plan.report], sorted(ranked[plan.report :])
        wanted = max(1, len(deciding)) if plan.draw is None else plan.draw
        if len(deciding) < wanted:
            raise BadRequest(
                f"{environment} has {len(pool)} tasks to evaluate, {wanted + plan.report} are needed: name more tasks, "
                "or lower `draw` or `report`",
                param="evaluation",
            )
        drawn[environment] = random.Random(f"{plan.seed}:{run_id}:{environment}").sample(deciding, wanted)
        if wanted == len(deciding):
            frozen.append(environment)
    guards = {name: _listed(name, listed) for name, listed in plan.guards.items()}
    for name, tasks in guards.items():
        if len(tasks) < LEAST:
            raise BadRequest(
                f"the guard environment {name} has {len(tasks)} tasks, {LEAST} are needed to rule out a fall",
                param="evaluation",
            )
    fewest = min(map(len, drawn.values()))
    count = max(1, min(plan.rounds, fewest // LEAST))
    return EvaluationTasks(
        rounds=[{name: _part(tasks, number, count) for name, tasks in drawn.items()} for number in range(count)],
        report={name: tasks for name, tasks in report.items() if tasks},
        guards=guards,
        frozen=frozen,
        seed=plan.seed if plan.draw is None else random.Random(f"{plan.seed}:{run_id}").randrange(2**31),
    )


def _listed(environment: str, listed: list[str] | str) -> list[str]:
    return tasks_of_split(environment, listed) if isinstance(listed, str) else listed


def _rank(environment: str, task: str) -> bytes:
    return hashlib.sha256(f"{environment}\n{task}".encode()).digest()


def _part(tasks: list[str], number: int, count: int) -> list[str]:
    return tasks[len(tasks) * number // count : len(tasks) * (number + 1) // count]
