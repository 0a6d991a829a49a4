"""Dynamic sampling: other tasks are played in place of groups whose episodes all score alike (step 6).

DAPO (arXiv 2503.14476, section 3.2) plays until a batch is full; here `play.resample` bounds the further groups, and
each group without variance is replaced once, those that replace others included. The further plays of a batch are rows:
after a restart they are found again, and an interrupted one is played again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import BatchRow, PlayRow
from server.training.curriculum import further_tasks, record_of, tasks_of
from server.training.selection import Selection
from upturn.wire import PlayRequest, RunConfig


def further_plays(session: Session, batch_id: str) -> list[PlayRow]:
    """Return the plays that replace groups of a batch, in the order in which they started."""
    return list(session.scalars(sa.select(PlayRow).where(PlayRow.batch_id == batch_id).order_by(PlayRow.id)))


def groups_of(plays: Sequence[PlayRow]) -> Counter[str]:
    """Return the number of groups of some plays, by environment."""
    groups: Counter[str] = Counter()
    for play in plays:
        tasks = PlayRequest.model_validate(play.request).all_tasks
        groups.update({environment: len(listed) for environment, listed in tasks.items()})
    return groups


def replaced(config: RunConfig, alike: Counter[str], further: Counter[str]) -> dict[str, int]:
    """Return how many further groups a batch plays next, by environment; none if its bound is reached.

    Args:
        config: the run's config.
        alike: groups without variance so far, by environment.
        further: groups played in place of others so far, by environment.
    """
    if config.play is None or config.traits.groups == "ignored":
        return {}
    left = int(config.play.resample * config.play.groups + 1e-9) - further.total()
    wanted: dict[str, int] = {}
    for environment, count in sorted((alike - further).items()):
        if (some := min(count, left)) > 0:
            wanted[environment] = some
            left -= some
    return wanted


def next_tasks(session: Session, config: RunConfig, batch: BatchRow, chosen: Selection) -> dict[str, list[str]]:
    """Return the tasks that a batch plays next in place of groups without variance, by environment.

    May read files, so call it outside the event loop.
    """
    plan, further = config.play, further_plays(session, batch.id)
    if plan is None or not (wanted := replaced(config, chosen.alike, groups_of(further))):
        return {}
    played: dict[str, list[str]] = {}
    for play in [session.get_one(PlayRow, batch.play_id), *further]:
        for environment, listed in PlayRequest.model_validate(play.request).all_tasks.items():
            played.setdefault(environment, []).extend(listed)
    record = record_of(session, batch.run_id, batch.step + 1) if plan.curriculum == "learnability" else {}
    return further_tasks(plan, tasks_of(plan), config.seed, batch.step, wanted=wanted, played=played, record=record)
