"""The learner steps of a run as figures: what each step played, learned and published, and what became of its version.

Reads columns of batches, metrics, lineage and the ledger.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.database import Database
from server.store.learner_metrics import metrics_by_step
from server.store.tables import (
    BatchRow,
    CampaignRow,
    EpisodeRow,
    PlayRow,
    PromotionRow,
    RunEpisodeRow,
    TurnRow,
)
from server.training.run_states import get_run
from upturn.outcome import nothing_to_learn
from upturn.wire import EnvironmentFigures, LearnerStep, RunSteps, StepDecision

LIVE = "live"
"""The name of episodes without an environment."""
SAME = (
    *("success_rate", "mean_reward", "truncated_share", "mean_turns", "entropy", "reference_kl", "mismatch_kl"),
    *("loss", "grad_norm", "lr", "trained_tokens", "train_s", "tokens_per_s"),
)
"""Figures that have the name of their metric."""
MOST_RUNS = 16
"""Runs whose counts are kept."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What is counted over the episodes of a step."""

    trained_episodes: int
    fork_share: float | None
    environments: dict[str, EnvironmentFigures]


class LearnerSteps:
    """Reads the steps of runs. What is counted over their episodes is kept: only erasures change a trained step."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counted: dict[str, dict[int, Counted]] = {}
        """By run and step; runs in the order in which they were first read."""
        self._erasures = 0

    async def read(self, run_id: str, first: int = 0) -> RunSteps:
        """Return the finished learner steps of a run, in order.

        Args:
            run_id: the run.
            first: the first step to return.

        Raises:
            NotFound: no such run.
        """
        return await asyncio.to_thread(self._read, run_id, first)

    async def forget(self, _episode_ids: Sequence[str]) -> None:
        """Count again: episodes were erased."""
        self._erasures += 1
        self._counted = {}

    def _read(self, run_id: str, first: int) -> RunSteps:
        with self._database.read() as session:
            run = get_run(session, run_id)
            campaign = session.scalar(sa.select(CampaignRow.name).where(CampaignRow.id == run.campaign_id))
            batches = session.execute(
                sa.select(BatchRow.step, BatchRow.horizon, BatchRow.policy_version, BatchRow.created_at)
                .where(BatchRow.run_id == run_id, BatchRow.state == "trained", BatchRow.step >= first)
                .order_by(BatchRow.step)
            ).all()
            metrics = metrics_by_step(session, run_id, first)
            counted = self._count(session, run_id, [batch.step for batch in batches])
            versions = [batch.policy_version for batch in batches if batch.policy_version is not None]
            decisions = _decisions(session, versions)
        return RunSteps(
            run_id=run.id,
            state=run.state,
            algorithm=run.config["algorithm"],
            campaign=campaign,
            first_step=run.first_step,
            total=run.config["steps"],
            first_version=run.first_version,
            last_version=run.last_version,
            data=[
                LearnerStep(
                    step=batch.step,
                    global_step=run.first_step + batch.step,
                    horizon=batch.horizon,
                    created_at=batch.created_at,
                    policy_version=batch.policy_version,
                    episodes=int(metrics[batch.step].get("episodes", 0)),
                    trained_episodes=counted[batch.step].trained_episodes,
                    fork_share=counted[batch.step].fork_share,
                    **{name: metrics[batch.step].get(name) for name in SAME},
                    nothing_to_learn=nothing_to_learn(metrics[batch.step]),
                    environments=counted[batch.step].environments,
                    decisions=decisions.get(batch.policy_version, []) if batch.policy_version is not None else [],
                    metrics=metrics[batch.step],
                )
                for batch in batches
            ],
        )

    def _count(self, session: Session, run_id: str, steps: Sequence[int]) -> dict[int, Counted]:
        """Return what is counted over the episodes of some steps, counting those that were not before."""
        erasures, known = self._erasures, self._counted.get(run_id, {})
        new = [step for step in steps if step not in known]
        if not new:
            return known
        trained, forks = _trained(session, run_id, min(new)), _forks(session, run_id, min(new))
        played = _played(session, run_id, min(new))
        counts = {}
        for step in new:
            count, rewards = trained.get(step, (0, {}))
            counts[step] = Counted(count, forks.get(step), _environments(played.get(step, []), rewards))
        if erasures == self._erasures:
            kept = list(self._counted.items())[-MOST_RUNS + 1 :]
            self._counted = {run: its for run, its in kept if run != run_id} | {run_id: known | counts}
        return known | counts


def _trained(session: Session, run_id: str, first: int) -> dict[int, tuple[int, dict[str, float | None]]]:
    """Return by step the number of episodes that trained it, and their mean reward by environment."""
    query = (
        sa.select(BatchRow.step, EpisodeRow.environment, sa.func.count(), sa.func.avg(RunEpisodeRow.reward))
        .join(RunEpisodeRow, RunEpisodeRow.batch_id == BatchRow.id)
        .join(EpisodeRow, EpisodeRow.id == RunEpisodeRow.episode_id)
        .where(BatchRow.run_id == run_id, BatchRow.step >= first)
        .group_by(BatchRow.step, EpisodeRow.environment)
    )
    found: dict[int, tuple[int, dict[str, float | None]]] = {}
    for step, environment, count, reward in session.execute(query):
        total, rewards = found.get(step, (0, {}))
        found[step] = total + count, rewards | {environment or LIVE: reward}
    return found


def _forks(session: Session, run_id: str, first: int) -> dict[int, float]:
    """Return by step the share of turns of its trained episodes that forked."""
    query = (
        sa.select(BatchRow.step, sa.func.avg(sa.case((TurnRow.forked, 1.0), else_=0.0)))
        .join(RunEpisodeRow, RunEpisodeRow.batch_id == BatchRow.id)
        .join(TurnRow, TurnRow.episode_id == RunEpisodeRow.episode_id)
        .where(BatchRow.run_id == run_id, BatchRow.step >= first)
        .group_by(BatchRow.step)
    )
    return {step: float(share) for step, share in session.execute(query)}


def _played(session: Session, run_id: str, first: int) -> dict[int, list[Any]]:
    """Return by step the played episodes by environment: how many, how many with a verdict, and the successes."""
    plays = (
        sa.select(BatchRow.step, BatchRow.play_id.label("play_id"))
        .where(BatchRow.run_id == run_id, BatchRow.step >= first, BatchRow.play_id.is_not(None))
        .union(
            sa.select(BatchRow.step, PlayRow.id)
            .join(PlayRow, PlayRow.batch_id == BatchRow.id)
            .where(BatchRow.run_id == run_id, BatchRow.step >= first)
        )
        .subquery()
    )
    query = (
        sa.select(
            plays.c.step,
            EpisodeRow.environment,
            sa.func.count().label("episodes"),
            sa.func.count(EpisodeRow.success).label("judged"),
            sa.func.sum(sa.case((EpisodeRow.success.is_(True), 1), else_=0)).label("succeeded"),
        )
        .join(EpisodeRow, EpisodeRow.play_id == plays.c.play_id)
        .where(EpisodeRow.status != "error")
        .group_by(plays.c.step, EpisodeRow.environment)
    )
    found: dict[int, list[Any]] = defaultdict(list)
    for row in session.execute(query):
        found[row.step].append(row)
    return found


def _environments(played: Sequence[Any], rewards: dict[str, float | None]) -> dict[str, EnvironmentFigures]:
    found = {
        row.environment or LIVE: EnvironmentFigures(
            episodes=row.episodes,
            success_rate=row.succeeded / row.judged if row.judged else None,
            mean_reward=rewards.get(row.environment or LIVE),
        )
        for row in played
    }
    only_trained = {
        name: EnvironmentFigures(episodes=0, success_rate=None, mean_reward=reward)
        for name, reward in rewards.items()
        if name not in found
    }
    return dict(sorted((found | only_trained).items()))


def _decisions(session: Session, versions: Sequence[int]) -> dict[int, list[StepDecision]]:
    """Return what was decided about some versions: the candidate, or for a rollback the version that was left."""
    if not versions:
        return {}
    is_from = PromotionRow.action.in_(("canary", "continue", "reject", "rollback"))
    concerned = sa.case((is_from, PromotionRow.from_version), else_=PromotionRow.to_version)
    query = sa.select(
        concerned.label("version"), PromotionRow.id, PromotionRow.action, PromotionRow.reason, PromotionRow.created_at
    ).where(concerned.between(min(versions), max(versions)))
    found: dict[int, list[StepDecision]] = defaultdict(list)
    for row in session.execute(query.order_by(PromotionRow.id)):
        found[row.version].append(
            StepDecision(id=row.id, action=row.action, reason=row.reason, created_at=row.created_at)
        )
    return found
