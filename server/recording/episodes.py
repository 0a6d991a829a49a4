"""The life of every episode: open, find, end (step 5 of the straight line)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast
from weakref import WeakValueDictionary

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.recording.episode import Episode
from server.recording.given_rewards import record_reward
from server.recording.keys import hash_of, new_episode_key
from server.recording.matching.candidates import ENDED
from server.recording.matching.matcher import Matcher
from server.recording.restore import restore_episode
from server.store.database import Database, new_id
from server.store.tables import ConversationEndRow, EpisodeRow
from server.store.writer import Many, Writer
from upturn.wire import EpisodeOpen, RewardRequest, RewardView

KEPT_IN_MEMORY = 10_000
"""Maximum number of episodes in memory, beyond which idle live ones are dropped and later restored from their rows."""
_INSERT = sa.insert(cast(sa.Table, EpisodeRow.__table__))


class Episodes:
    """All episodes: the open ones in memory, every one in the database."""

    def __init__(
        self, database: Database, writer: Writer, on_end: Callable[[str, str | None], None] | None = None
    ) -> None:
        self._database = database
        self._writer = writer
        self._on_end = on_end
        """Called with status and error class after an end is recorded."""
        self._open: OrderedDict[str, Episode] = OrderedDict()
        """Open episodes, the least recently used first."""
        self._held: WeakValueDictionary[str, Episode] = WeakValueDictionary()
        """The same, and dropped ones that a request still holds."""
        self._reading: dict[str, asyncio.Task[Episode]] = {}
        """Episodes that are being restored from their rows, by id."""
        self.matcher = Matcher(database)
        self.when_ended: list[Callable[[str], None]] = [self.matcher.forget]
        """Called with the id of each episode that ends or is erased, to release its resources."""
        self.when_changed: list[Callable[[str], None]] = []
        """Called with the id of each episode that is opened, ended or rewarded, once that is recorded."""

    async def open(
        self,
        request: EpisodeOpen,
        *,
        policy_version: int,
        horizon: int,
        play_id: str | None = None,
        repetition: int | None = None,
        purpose: str = "other",
        owner_hash: str | None = None,
        episode_id: str | None = None,
        conversation_key: str | None = None,
        continues: str | None = None,
    ) -> tuple[Episode, str]:
        """Begin an episode; return it and its own API key, which is stored only as a hash.

        The row is written with the first turn, or when `Episode.opened()` is awaited. One of the two must happen before
        anyone learns of the episode.

        Args:
            request: the request to open it.
            policy_version: version that the episode is opened on.
            horizon: maximum number of turns.
            play_id: the play that the episode belongs to.
            repetition: which of the play's episodes of its task it is, from 0.
            purpose: what the episode is played for; an `evaluation` is never trained on.
            owner_hash: SHA-256 of the API key that opens it.
            episode_id: its id, if the caller has generated one.
            conversation_key: hash of the client's id of its conversation.
            continues: the ended episode whose conversation it continues.
        """
        episode = Episode(
            id=episode_id or new_id("ep"),
            environment=request.environment,
            task=request.task,
            seed=request.seed,
            horizon=horizon,
            policy_version=policy_version,
            purpose=purpose,
            trainable=request.trainable and purpose != "evaluation",
        )
        key = new_episode_key()
        row = {
            "id": episode.id,
            "status": "open",
            "environment": request.environment,
            "task": request.task,
            "seed": request.seed,
            "horizon": horizon,
            "group_key": request.group,
            "play_id": play_id,
            "repetition": repetition,
            "purpose": purpose,
            "policy_version": policy_version,
            "trainable": episode.trainable,
            "key_hash": hash_of(key),
            "owner_hash": owner_hash,
            "conversation_key": conversation_key,
            "continues_id": continues,
            "details": request.metadata,
            "opened_at": time.time(),
        }
        self._remember(episode)
        episode.unwritten, episode.write = row, self._write
        return episode, key

    async def get(self, episode_id: str) -> Episode:
        """Return an open episode.

        Raises:
            NotFound: there is no such episode.
            Conflict: it has ended.
        """
        episode = self._held.get(episode_id)
        if episode is None:
            if episode_id not in self._reading:
                reading = self._reading[episode_id] = asyncio.create_task(self._restore(episode_id))
                reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
            episode = await asyncio.shield(self._reading[episode_id])
        episode.must_be_open()
        self._remember(episode)
        return episode

    async def settled(self, episode_id: str) -> None:
        """Wait until an end that is being written is written."""
        episode = self._held.get(episode_id)
        if episode is not None and episode.ending is not None:
            await asyncio.wait([episode.ending])

    async def _restore(self, episode_id: str) -> Episode:
        """Read an episode from its rows; all who ask for it meanwhile get the same object."""
        try:
            episode = await asyncio.to_thread(restore_episode, self._database, episode_id)
            if episode.ended is None:
                self._remember(episode)
            return episode
        finally:
            del self._reading[episode_id]

    async def end(
        self,
        episode: Episode,
        status: str,
        *,
        reason: str | None = None,
        error_class: str | None = None,
        success: bool | None = None,
    ) -> None:
        """End an episode. Only the first recorded end counts; later calls change nothing.

        The end is written even if the caller is cancelled. If the write fails, the episode stays open.
        """
        while episode.ending is not None:
            await asyncio.wait([episode.ending])
        if episode.ended is not None:
            return
        values = {"status": status, "reason": reason, "error_class": error_class, "success": success}
        episode.ending = asyncio.ensure_future(self._end(episode, values))
        episode.ending.add_done_callback(lambda ending: ending.cancelled() or ending.exception())
        await asyncio.shield(episode.ending)

    async def _end(self, episode: Episode, values: dict[str, Any]) -> None:
        try:
            await episode.opened()
            change = (
                sa.update(EpisodeRow)
                .where(EpisodeRow.id == episode.id, EpisodeRow.status == "open")
                .values(**values, closed_at=closing_time())
            )
            ends = sa.update(ConversationEndRow).where(ConversationEndRow.episode_id == episode.id).values(state=ENDED)

            def end(session: Session) -> None:
                session.execute(change)
                session.execute(ends)

            await self._writer.write(end)
            episode.ended = values["status"]
        finally:
            episode.ending = None
        self._forget(episode.id)
        self._changed(episode.id)
        if self._on_end is not None:
            self._on_end(values["status"], values["error_class"])

    async def never_train(self, episode: Episode) -> None:
        """Keep an episode, with its recorded and future turns, out of every batch."""
        if episode.trainable:
            change = sa.update(EpisodeRow).where(EpisodeRow.id == episode.id).values(trainable=False)
            await self._writer.write(lambda session: session.execute(change))
            episode.trainable = False  # After the write: if it failed, the next request retries it.

    async def reward(self, episode_id: str, request: RewardRequest) -> RewardView:
        """Record a late or partial reward.

        Raises:
            NotFound: no such episode or turn.
            Conflict: the idempotency key was used with other content, the episode failed, or it has too many rewards.
        """

        def record(session: Session) -> RewardView:
            return record_reward(session, episode_id, request)

        try:
            given = await self._writer.write(record)
        except sa.exc.IntegrityError:  # Another server has just recorded the same key, or erased the episode.
            given = await self._writer.write(record)
        self._changed(episode_id)
        return given

    async def fail_interrupted(self) -> int:
        """After a restart, close the episodes that have lost their environment; return how many."""
        change = (
            sa.update(EpisodeRow)
            .where(EpisodeRow.status == "open", EpisodeRow.environment.is_not(None))
            .values(status="closed", trainable=False, closed_at=closing_time(), reason="the server restarted")
        )
        return await self._writer.write(lambda session: int(session.execute(change).rowcount))  # type: ignore[attr-defined]

    def open_versions(self) -> set[int]:
        """Return the versions of the open episodes in memory."""
        return {episode.policy_version for episode in self._open.values()}

    def held_versions(self) -> set[int]:
        """Return the versions that must stay loaded: environment episodes answer turn after turn.

        Other open episodes may be silent for days; their versions can be loaded again when they continue.
        """
        return {episode.policy_version for episode in self._open.values() if episode.environment is not None}

    def _write(self, episode: Episode) -> asyncio.Future[None]:
        row, episode.unwritten = episode.unwritten, None
        written = self._writer.begin(Many(insert_episodes, row, rank=0))
        written.add_done_callback(lambda written: self._forget_unwritten(written, episode))
        return written

    def _forget_unwritten(self, written: asyncio.Future[None], episode: Episode) -> None:
        if written.cancelled() or written.exception() is not None:
            episode.ended = "error"
            self._forget(episode.id)
        else:
            self._changed(episode.id)

    def _forget(self, episode_id: str) -> None:
        self._open.pop(episode_id, None)
        self._held.pop(episode_id, None)
        for release in self.when_ended:
            release(episode_id)

    def _changed(self, episode_id: str) -> None:
        for tell in self.when_changed:
            tell(episode_id)

    def _remember(self, episode: Episode) -> None:
        self._open[episode.id] = self._held[episode.id] = episode
        self._open.move_to_end(episode.id)
        if len(self._open) > KEPT_IN_MEMORY:
            idle = next((e for e in self._open.values() if e.environment is None and not e.answering), None)
            if idle is not None:
                del self._open[idle.id]


def closing_time() -> sa.ColumnElement[float]:
    """Return the time at which an episode ends: now, or when it was opened if the clock has been set back since."""
    now = time.time()
    return sa.case((EpisodeRow.opened_at > now, EpisodeRow.opened_at), else_=now)


def insert_episodes(session: Session, rows: Sequence[dict[str, Any] | None]) -> list[None]:
    """Insert the rows of new episodes; None stands for an episode whose row is already written."""
    if new := [row for row in rows if row is not None]:
        session.connection().execute(_INSERT, new)
    return [None] * len(rows)
