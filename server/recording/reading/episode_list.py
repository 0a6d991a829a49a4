"""Lists episodes, newest first, in pages: each begins after the last id of the one before. Blocks on the database.

Whatever the record finds by its own indexes comes from there. The other filters ask the index of episodes
(`episode_search.py`), and what it names is read from the record again: nothing erased is ever shown. While there is no
index, the record is searched as far as that is possible.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import BadRequest, Unavailable
from server.recording.reading.episode_search import ANY, LONGEST_RESET_S, Conditions, Wanted, search
from server.recording.reading.indexer import Indexer
from server.recording.reading.summaries import summaries
from server.rewards.totals import rewards_of
from server.store.database import Database, id_at
from server.store.tables import ApiKeyRow, BatchRow, EpisodeRow, RunEpisodeRow, TurnRow
from upturn.wire import EpisodeList

SEARCHED = 2000
"""Episodes in which one page searches for text without the index: other requests wait for the same threads."""
ROUNDS, CANDIDATES = 8, 500
"""Searches for one page, and episodes that each names for conditions that only the record knows."""
MOST_OF_RUN = 10_000
"""Episodes of a run among which is searched, the newest first."""


@dataclass(frozen=True, slots=True)
class Filter(Conditions):
    """Which episodes to list."""

    owner: str | None = None
    """SHA-256 of the API key that opened them."""
    key: str | None = None
    """Name or id of that key."""
    group: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    """Values of keys of the episode's metadata, as text."""
    run: str | None = None
    step: int | None = None
    """Episodes of the run's batches, or of the batch of one of its learner steps."""

    @property
    def searches(self) -> bool:
        """Whether the index finds these episodes faster than the record does."""
        asked: list[object] = [self.text, self.reward_from, self.reward_to]
        if self.run is None:  # Otherwise the record has few to check.
            asked += [self.version, self.untrainable, self.task, self.environment, self.live, self.success]
        return any(value is not None for value in asked)


def list_episodes(
    database: Database, chosen: Filter, *, after: str | None, limit: int, index: Indexer | None = None
) -> EpisodeList:
    """Return a page of episodes.

    Args:
        database: the database to read.
        chosen: which episodes.
        after: the last id of the page before; None begins with the newest episode.
        limit: maximum number of episodes.
        index: the index to search in; None searches the record.

    Raises:
        BadRequest: the filter names a metadata key that cannot be searched for.
        Unavailable: only the index can answer, and there is none now.
    """
    with database.read() as session:
        if index is not None and index.usable and chosen.searches:
            try:
                return _searched(session, chosen, index, after, limit)
            except sqlite3.Error as error:
                index.failed(error)
        return _listed(session, chosen, after, limit)


def _searched(session: Session, chosen: Filter, index: Indexer, after: str | None, limit: int) -> EpisodeList:
    """Return a page of what the index finds."""
    asked = {of_both.name: getattr(chosen, of_both.name) for of_both in fields(Conditions)}
    wanted = Wanted(**asked, owner=_owners(session, chosen), ids=_ids_of_run(session, chosen))
    conditions = list(_known_to_the_record(session, chosen))
    missing, rows, rewards = index.missing, list[EpisodeRow](), dict[str, float | None]()
    for _ in range(ROUNDS):
        with index.file.read() as connection:
            found = search(connection, wanted, after=after, limit=CANDIDATES if conditions else limit - len(rows))
        query = sa.select(EpisodeRow).where(EpisodeRow.id.in_(found.ids), *conditions)
        kept = {row.id: row for row in session.scalars(query)} if found.ids else {}
        rewards |= rewards_of(session, list(kept))
        for episode_id in found.ids:
            if episode_id in kept and _rewarded(chosen, rewards[episode_id]):
                rows.append(kept[episode_id])
                if len(rows) == limit and episode_id != found.ids[-1]:
                    return EpisodeList(data=summaries(session, rows, rewards), next=episode_id, missing=missing)
        after = found.next
        if after is None or len(rows) == limit:
            break
    return EpisodeList(data=summaries(session, rows, rewards), next=after, missing=missing)


def _listed(session: Session, chosen: Filter, after: str | None, limit: int) -> EpisodeList:
    """Return a page from the record alone."""
    if chosen.reward_from is not None or chosen.reward_to is not None:
        raise Unavailable(
            "the index of episodes, which a search by reward needs, is being built: try again in a minute, or see the "
            "server's log",
            code="index_unavailable",
        )
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
    return EpisodeList(data=summaries(session, page, rewards_of(session, [row.id for row in page])), next=following)


def _conditions(session: Session, chosen: Filter) -> Iterator[sa.ColumnElement[bool]]:
    owners = _owners(session, chosen)
    if owners is not None:
        yield EpisodeRow.owner_hash.in_(owners)
    if chosen.statuses:
        yield EpisodeRow.status.in_(chosen.statuses)
    equal = (
        (EpisodeRow.environment, chosen.environment),
        (EpisodeRow.task, chosen.task),
        (EpisodeRow.play_id, chosen.play),
        (EpisodeRow.success, chosen.success),
    )
    for column, value in equal:
        if value is not None:
            yield column == value
    if chosen.live is not None:
        yield EpisodeRow.play_id.is_(None) if chosen.live else EpisodeRow.play_id.is_not(None)
    turn = sa.exists().where(TurnRow.episode_id == EpisodeRow.id)
    if chosen.version is not None:
        yield turn.where(TurnRow.policy_version == chosen.version)
    if chosen.untrainable is not None:
        reason = TurnRow.untrainable_reason
        yield turn.where(reason.is_not(None) if chosen.untrainable == ANY else reason == chosen.untrainable)
    if chosen.opened_from is not None:
        yield EpisodeRow.opened_at >= chosen.opened_from
        yield EpisodeRow.id >= id_at("ep", max(0.0, chosen.opened_from - LONGEST_RESET_S))
    if chosen.opened_before is not None:
        yield EpisodeRow.opened_at < chosen.opened_before
        yield EpisodeRow.id < id_at("ep", chosen.opened_before + 1)
    if chosen.run is not None:
        yield EpisodeRow.id.in_(_of_run(chosen))
    yield from _known_to_the_record(session, chosen)


def _known_to_the_record(session: Session, chosen: Filter) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the conditions that only the record can check."""
    if chosen.group is not None:
        yield EpisodeRow.group_key == chosen.group
    for name, value in chosen.metadata.items():
        yield _has(session, name, value)


def _owners(session: Session, chosen: Filter) -> list[str] | None:
    """Return the hashes of the keys whose episodes are listed; None for all."""
    owners = None if chosen.owner is None else {chosen.owner}
    if chosen.key is not None:
        named = sa.or_(ApiKeyRow.id == chosen.key, ApiKeyRow.name == chosen.key)
        of_key = set(session.scalars(sa.select(ApiKeyRow.key_hash).where(named)))
        owners = of_key if owners is None else owners & of_key
    return None if owners is None else sorted(owners)


def _ids_of_run(session: Session, chosen: Filter) -> set[str] | None:
    if chosen.run is None:
        return None
    return set(session.scalars(_of_run(chosen).order_by(RunEpisodeRow.episode_id.desc()).limit(MOST_OF_RUN)))


def _of_run(chosen: Filter) -> sa.Select[str]:
    query = sa.select(RunEpisodeRow.episode_id).where(RunEpisodeRow.run_id == chosen.run)
    if chosen.step is None:
        return query
    return query.join(BatchRow, BatchRow.id == RunEpisodeRow.batch_id).where(BatchRow.step == chosen.step)


def _rewarded(chosen: Filter, reward: float | None) -> bool:
    """Return whether a reward is in the wanted range: the rules of its sources may have changed a moment ago."""
    if chosen.reward_from is None and chosen.reward_to is None:
        return True
    lowest = float("-inf") if chosen.reward_from is None else chosen.reward_from
    return reward is not None and lowest <= reward <= (float("inf") if chosen.reward_to is None else chosen.reward_to)


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
