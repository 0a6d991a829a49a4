"""The rows of episodes in a list as messages. Blocks on the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import EpisodeRow, TurnRow
from upturn.wire import EpisodeSummary


@dataclass(slots=True)
class _Turns:
    """Figures of an episode's turns."""

    turns: int = 0
    completion_tokens: int = 0
    newest: float | None = None
    versions: set[int] = field(default_factory=set)
    untrainable: dict[str, int] = field(default_factory=dict)


def summaries(
    session: Session, rows: Sequence[EpisodeRow], rewards: Mapping[str, float | None]
) -> list[EpisodeSummary]:
    """Return a page of episodes, in the order of their rows."""
    turns = _turns_of(session, [row.id for row in rows])
    return [
        EpisodeSummary(
            id=row.id,
            status=row.status,
            error_class=row.error_class,
            reason=row.reason,
            environment=row.environment,
            task=row.task,
            group=row.group_key,
            play_id=row.play_id,
            policy_version=row.policy_version,
            trainable=row.trainable,
            success=row.success,
            reward=rewards[row.id],
            metadata=row.details,
            continues=row.continues_id,
            turns=turns[row.id].turns,
            last_turn_at=turns[row.id].newest,
            opened_at=row.opened_at,
            closed_at=row.closed_at,
            live=row.play_id is None,
            completion_tokens=turns[row.id].completion_tokens,
            versions=sorted(turns[row.id].versions),
            untrainable=turns[row.id].untrainable,
        )
        for row in rows
    ]


def _turns_of(session: Session, episode_ids: list[str]) -> dict[str, _Turns]:
    found = {episode_id: _Turns() for episode_id in episode_ids}
    query = (
        sa.select(
            TurnRow.episode_id,
            TurnRow.policy_version,
            TurnRow.untrainable_reason,
            sa.func.count().label("turns"),
            sa.func.sum(TurnRow.completion_tokens).label("tokens"),
            sa.func.max(TurnRow.created_at).label("newest"),
        )
        .where(TurnRow.episode_id.in_(episode_ids))
        .group_by(TurnRow.episode_id, TurnRow.policy_version, TurnRow.untrainable_reason)
    )
    for row in session.execute(query) if episode_ids else ():
        its = found[row.episode_id]
        its.turns += row.turns
        its.completion_tokens += int(row.tokens)
        its.newest = row.newest if its.newest is None else max(its.newest, row.newest)
        if row.policy_version is not None:
            its.versions.add(row.policy_version)
        if row.untrainable_reason is not None:
            count = its.untrainable.get(row.untrainable_reason, 0)
            its.untrainable[row.untrainable_reason] = count + row.turns
    return found
