"""Which tasks a learner step plays: a pure function of the run's plan, its seed, the step and the recorded episodes.

Repeated calls return the same tasks; once a play has started, its own row records them.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.environments.instances import find_environment
from server.errors import NotFound
from server.store.tables import BatchRow, EpisodeRow, PlayRow, RunRow
from server.training.data.episode_order import newest_first
from upturn.wire import PlayPlan

RECENT = 32  # Newest episodes of a task that estimate its success: four groups of eight.

Record = dict[tuple[str, str], tuple[int, int]]
"""By (environment, task): successes among the newest episodes, and the number of those episodes."""


def tasks_of_split(environment: str, split: str) -> list[str]:
    """Return a split's tasks. May read files, so call it outside the event loop.

    Raises:
        NotFound: unknown environment or split, or a split without tasks.
    """
    env = find_environment(environment)
    if split not in env.splits():
        raise NotFound(
            f"{environment} has no split {split!r}, only {', '.join(env.splits())}",
            param="split",
            code="split_not_found",
        )
    if not (tasks := env.tasks(split)):
        raise NotFound(f"split {split!r} of {environment} has no tasks", param="split", code="split_not_found")
    return tasks


def tasks_of(plan: PlayPlan) -> dict[str, list[str]]:
    """Return the tasks a plan chooses from, by environment. May read files, so call it outside the event loop.

    Raises:
        NotFound: unknown environment or split, or a split without tasks.
    """
    by_environment = {}
    for name, choice in plan.choices.items():
        listed = choice.tasks or tasks_of_split(name, choice.split or "")
        by_environment[name] = list(dict.fromkeys(listed))
    return by_environment


def record_of(session: Session, run: RunRow, step: int) -> Record:
    """Return the success of the tasks that a run played before a step, or its campaign in earlier runs.

    Episodes without a verdict are ignored.
    """
    before = sa.and_(BatchRow.run_id == run.id, BatchRow.step < step)
    if run.campaign_id is not None:
        earlier = sa.select(RunRow.id).where(RunRow.campaign_id == run.campaign_id, RunRow.id != run.id)
        before = sa.or_(before, BatchRow.run_id.in_(earlier))
    further = sa.select(PlayRow.id).join(BatchRow, BatchRow.id == PlayRow.batch_id).where(before)
    plays = sa.select(BatchRow.play_id).where(before, BatchRow.play_id.is_not(None)).union_all(further)
    played = (
        sa.select(
            EpisodeRow.environment,
            EpisodeRow.task,
            EpisodeRow.success,
            sa.func.row_number()
            .over(partition_by=(EpisodeRow.environment, EpisodeRow.task), order_by=newest_first())
            .label("age"),
        )
        .where(
            EpisodeRow.play_id.in_(plays),
            EpisodeRow.status.not_in(("open", "error")),
            EpisodeRow.success.is_not(None),
            EpisodeRow.environment.is_not(None),
            EpisodeRow.task.is_not(None),
        )
        .subquery()
    )
    query = (
        sa.select(
            played.c.environment, played.c.task, sa.func.sum(sa.case((played.c.success, 1), else_=0)), sa.func.count()
        )
        .where(played.c.age <= RECENT)
        .group_by(played.c.environment, played.c.task)
    )
    return {(environment, task): (won, count) for environment, task, won, count in session.execute(query)}


def tasks_of_step(
    plan: PlayPlan, tasks: dict[str, list[str]], seed: int, step: int, record: Record | None = None
) -> dict[str, list[str]]:
    """Return the tasks of a learner step by environment, `plan.groups` in total.

    There are fewer if an environment has too few tasks, or if `uniform` reaches the end of its order: it plays every
    task once before repeating any, and never plays a task twice in a step.

    Args:
        plan: the run's plan.
        tasks: the tasks to choose from, from `tasks_of`.
        seed: the run's seed.
        step: learner step, from 0.
        record: success of the run's tasks, required by `learnability`.
    """
    chosen: dict[str, list[str]] = {}
    for environment, places in _places(plan, step).items():
        listed = tasks[environment]
        if plan.curriculum == "learnability":
            chosen[environment] = _learnable(
                listed,
                len(places),
                f"{seed}:{step}:{environment}",
                {task: (record or {}).get((environment, task), (0, 0)) for task in listed},
            )
        else:
            chosen[environment] = _in_turn(listed, places, seed)
    return chosen


def further_tasks(
    plan: PlayPlan,
    tasks: dict[str, list[str]],
    seed: int,
    step: int,
    *,
    wanted: Mapping[str, int],
    played: Mapping[str, Collection[str]],
    record: Record,
) -> dict[str, list[str]]:
    """Return tasks that a learner step plays in place of others; fewer if an environment has no further tasks.

    Args:
        plan: the run's plan.
        tasks: the tasks to choose from, from `tasks_of`.
        seed: the run's seed.
        step: learner step, from 0.
        wanted: number of tasks by environment.
        played: the tasks that the step has played, by environment; they are not played again.
        record: success of the run's tasks, required by `learnability`.
    """
    chosen = {}
    for environment, count in wanted.items():
        done = played.get(environment, ())
        left = [task for task in tasks[environment] if task not in done]
        own_seed = f"{seed}:{step}:{environment}:{len(done)}"
        if plan.curriculum == "learnability":
            known = {task: record.get((environment, task), (0, 0)) for task in left}
            chosen[environment] = _learnable(left, count, own_seed, known)
        else:
            chosen[environment] = random.Random(own_seed).sample(left, min(count, len(left)))
    return {environment: some for environment, some in chosen.items() if some}


def learnability(won: int, count: int) -> float:
    """Return a task's learnability p(1-p), where p is its success rate (Sampling For Learnability, arXiv 2408.15099).

    p is Laplace's estimate (won + 1) / (count + 2): never 0 or 1, so solved and hopeless tasks still come up, and 1/2
    for a task that was never played, which is the maximum.
    """
    p = (won + 1) / (count + 2)
    return p * (1 - p)


def _places(plan: PlayPlan, step: int) -> dict[str, list[int]]:
    """Return the indices of the groups that each environment plays in a step, counted per environment over the run.

    The environments alternate in a fixed order in which each occurs as often as its weight, evenly spread.
    """
    weights = {name: choice.weight for name, choice in plan.choices.items()}
    order = [
        name
        for _, name in sorted(((i + 0.5) / weight, name) for name, weight in weights.items() for i in range(weight))
    ]
    places: dict[str, list[int]] = {}
    for group in range(step * plan.groups, (step + 1) * plan.groups):
        cycle, turn = divmod(group, len(order))
        name = order[turn]
        places.setdefault(name, []).append(cycle * weights[name] + order[:turn].count(name))
    return places


def _in_turn(tasks: list[str], places: list[int], seed: int) -> list[str]:
    """Return the tasks at some places of an endless seeded order that repeats no task before all have come up."""
    orders: dict[int, list[str]] = {}
    chosen: dict[str, None] = {}
    for place in places:
        lap, position = divmod(place, len(tasks))
        if lap not in orders:
            orders[lap] = random.Random(f"{seed}:{lap}").sample(tasks, len(tasks))
        chosen[orders[lap][position]] = None
    return list(chosen)


def _learnable(tasks: list[str], count: int, seed: str, record: dict[str, tuple[int, int]]) -> list[str]:
    """Draw tasks without replacement, weighted by learnability: the smallest exponential times at these rates."""
    rng = random.Random(seed)
    times = {task: -math.log(1 - rng.random()) / learnability(*record[task]) for task in tasks}
    return heapq.nsmallest(count, tasks, key=times.__getitem__)
