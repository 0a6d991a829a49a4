"""Lists episodes, newest first, in pages: each begins after the last id of the one before. Blocks on the database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import BadRequest
from server.rewards.totals import rewards_of
from server.store.database import Database, id_at
from server.store.tables import ApiKeyRow, EpisodeRow, TurnRow
from upturn.wire import EpisodeList, EpisodeSummary

SEARCHED = 2000
"""Episodes in which one page searches for text: no index helps there, and other requests wait for the same threads."""
LONGEST_RESET_S = 3600.0
"""An environment's episode gets its id before it is reset, and opens after that; longest time between the two."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which episodes to list; None, or an empty list, allows every value."""

    owner: str | None = None
    """SHA-256 of the API key that opened them."""
    key: str | None = None
    """Name or id of that key."""
    statuses: list[str] = field(default_factory=list)
    environment: str | None = None
    group: str | None = None
    opened_from: float | None = None
    """Unix seconds."""
    opened_before: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    """Values of keys of the episode's metadata, as text."""
    text: str | None = None
    """Text within a message or an answer."""


def list_episodes(database: Database, chosen: Filter, *, after: str | None, limit: int) -> EpisodeList:
    """Return a page of episodes.

    Args:
        database: the database to read.
        chosen: which episodes.
        after: the last id of the page before; None begins with the newest episode.
        limit: maximum number of episodes.

    Raises:
        BadRequest: the filter names a metadata key that cannot be searched for.
    """
    with database.read() as session:
        query = sa.select(EpisodeRow).where(*_conditions(session, chosen)).order_by(EpisodeRow.id.desc())
        if after is not None:
            query = query.where(EpisodeRow.id < after)
        searched: Sequence[str] = []
        if chosen.text is not None:
            searched = session.scalars(query.with_only_columns(EpisodeRow.id).limit(SEARCHED)).all()
            query = query.where(EpisodeRow.id >= (searched[-1] if searched else ""), _contains(chosen.text))
        rows = session.scalars(query.limit(limit + 1)).all()
        page = rows[:limit]
        following = page[-1].id if len(rows) > limit else searched[-1] if len(searched) == SEARCHED else None
        ids = [row.id for row in page]
        rewards = rewards_of(session, ids)
        turns = {
            row.episode_id: row
            for row in session.execute(
                sa.select(
                    TurnRow.episode_id, sa.func.count().label("turns"), sa.func.max(TurnRow.created_at).label("newest")
                )
                .where(TurnRow.episode_id.in_(ids))
                .group_by(TurnRow.episode_id)
            )
        }
    return EpisodeList(
        data=[
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
                turns=turns[row.id].turns if row.id in turns else 0,
                last_turn_at=turns[row.id].newest if row.id in turns else None,
                opened_at=row.opened_at,
                closed_at=row.closed_at,
            )
            for row in page
        ],
        next=following,
    )


def _conditions(session: Session, chosen: Filter) -> Iterator[sa.ColumnElement[bool]]:
    if chosen.owner is not None:
        yield EpisodeRow.owner_hash == chosen.owner
    if chosen.key is not None:
        named = sa.or_(ApiKeyRow.id == chosen.key, ApiKeyRow.name == chosen.key)
        yield EpisodeRow.owner_hash.in_(session.scalars(sa.select(ApiKeyRow.key_hash).where(named)).all())
    if chosen.statuses:
        yield EpisodeRow.status.in_(chosen.statuses)
    if chosen.environment is not None:
        yield EpisodeRow.environment == chosen.environment
    if chosen.group is not None:
        yield EpisodeRow.group_key == chosen.group
    if chosen.opened_from is not None:
        yield EpisodeRow.opened_at >= chosen.opened_from
        yield EpisodeRow.id >= id_at("ep", max(0.0, chosen.opened_from - LONGEST_RESET_S))
    if chosen.opened_before is not None:
        yield EpisodeRow.opened_at < chosen.opened_before
        yield EpisodeRow.id < id_at("ep", chosen.opened_before + 1)
    for name, value in chosen.metadata.items():
        yield _has(session, name, value)


def _contains(text: str) -> sa.ColumnElement[bool]:
    """Return the condition that a message or an answer contains a text."""
    written = json.dumps(text)[1:-1]  # As JSON columns hold it.
    return sa.exists().where(
        TurnRow.episode_id == EpisodeRow.id,
        sa.or_(
            sa.cast(TurnRow.messages, sa.Text).icontains(written, autoescape=True),
            sa.cast(TurnRow.answer, sa.Text).icontains(written, autoescape=True),
        ),
    )


def _has(session: Session, name: str, value: str) -> sa.ColumnElement[bool]:
    """Return the condition that a metadata key has a value: text, a number, or `true` and `false`."""
    if '"' in name or "\\" in name:
        raise BadRequest(f"metadata cannot be searched for the key {name[:100]!r}", param="metadata")
    if session.get_bind().dialect.name == "postgresql":
        return sa.func.json_extract_path_text(EpisodeRow.details, name, type_=sa.Text) == value
    path = f'$."{name}"'
    kind = sa.func.json_type(EpisodeRow.details, path)
    found = sa.cast(sa.func.json_extract(EpisodeRow.details, path), sa.Text)
    return kind == value if value in ("true", "false") else sa.and_(kind.not_in(("true", "false")), found == value)
