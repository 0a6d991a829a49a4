"""Rehearses the training data of a run: the tasks of its plays, and the live episodes that it would take now."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import ApiKeyRow, RewardRow
from server.training.data.curriculum import tasks_of, tasks_of_step
from server.training.data.live_episodes import oldest_live, plan_of
from server.training.data.selection import select
from server.training.rehearsal.report import Finding, failed, ok, warning
from upturn.outcome import nothing_to_learn
from upturn.wire import LivePlan, PlayPlan, RunConfig


def play_findings(plan: PlayPlan, config: RunConfig, first_step: int) -> Iterator[Finding]:
    """Yield which tasks the first step plays. May read files, so call it outside the event loop.

    Raises:
        NotFound: unknown environment or split, or a split without tasks.
    """
    tasks = tasks_of(plan)
    chosen = tasks_of_step(plan, tasks, config.seed, first_step)
    groups = sum(map(len, chosen.values()))
    text = f"plays {groups} of {sum(map(len, tasks.values()))} tasks in its first step, {plan.group_size} times each"
    if groups < plan.groups:
        yield warning(f"{text}, although groups is {plan.groups}: name more tasks, or lower play.groups")
    else:
        yield ok(text)


def live_findings(session: Session, config: RunConfig, head: int, now: float) -> Iterator[Finding]:
    """Yield which live episodes a run would take now. Nothing is reserved or used.

    Args:
        session: database session.
        config: the run's config.
        head: newest version.
        now: Unix seconds.
    """
    plan = plan_of(config)
    if plan is None:
        return
    yield from _names(session, plan)
    alone = config.play is None
    if not alone:  # Next to a play, any number of live episodes will do.
        plan = plan.model_copy(update={"min_episodes": 1})
    searched = config.model_copy(update={"play": None, "live": plan})
    oldest = oldest_live(session, config)
    stats = select(session, searched, run_id="rehearsal", play_id=None, head=head, oldest=oldest, now=now).stats
    taken = stats["live_episodes"]
    counts = {name: float(value) for name, value in stats.items() if isinstance(value, int | float)}
    if taken and not (alone and stats["episodes_with_equal_rewards"] and not config.traits.off_policy):
        yield ok(f"takes {taken} live episodes in its first step, if it starts now")
        return
    why = nothing_to_learn({**counts, "skipped": 1.0})
    if alone:
        yield warning(f"has nothing to train on yet: {why}; it needs more scored episodes until it starts")
    else:
        yield ok(f"takes no live episodes yet: {why}")


def _names(session: Session, plan: LivePlan) -> Iterator[Finding]:
    """Yield the keys and sources in a plan that nobody knows."""
    named = session.execute(
        sa.select(ApiKeyRow.id, ApiKeyRow.name).where(
            sa.or_(ApiKeyRow.id.in_(plan.keys), ApiKeyRow.name.in_(plan.keys))
        )
    )
    known = {text for pair in named for text in pair}
    if unknown := [key for key in plan.keys if key not in known]:
        yield failed(f"live.keys names {', '.join(unknown)}, but there is no such API key: correct the name")
    rewarding = set(session.scalars(sa.select(RewardRow.source).where(RewardRow.source.in_(plan.sources)).distinct()))
    if silent := [source for source in plan.sources if source not in rewarding]:
        yield warning(f"live.sources names {', '.join(silent)}, which has never rewarded an episode: check the name")
