"""The life of an episode: open, turns and steps, rewards, the end (step 5 of the straight line).

`Episode` is what the server holds in memory of an open episode; the rows are the truth, and an episode that is not in
memory is read back from them. All rules about what may still happen to an episode are here.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import Conflict, HorizonReached, NotFound
from server.recording.tokens import unpack_ids
from server.store.database import Database, new_id
from server.store.tables import EpisodeRow, NodeRow, RewardRow, StepRow, TurnRow
from server.store.writer import Many, Writer
from upturn.wire import EpisodeOpen, RewardRequest, RewardView

EPISODE_KEY = "ep-"
"""How an episode's own API key begins."""
KEPT_IN_MEMORY = 10_000  # Idle live episodes beyond this are read back from the database when they go on.


@dataclass(slots=True)
class Tail:
    """The recorded end of a conversation: the last node of a turn, and through its parents all ids before it."""

    node_id: int
    parent: Tail | None
    token_ids: list[int]
    """[K] ids of this turn: its new prompt tokens and its answer."""

    def path(self) -> list[int]:
        """Return [T] all recorded ids up to here."""
        parts: list[list[int]] = []
        at: Tail | None = self
        while at is not None:
            parts.append(at.token_ids)
            at = at.parent
        return [token for part in reversed(parts) for token in part]


@dataclass(slots=True)
class Episode:
    """An open episode."""

    id: str
    environment: str | None
    task: str | None
    seed: int
    horizon: int
    policy_version: int
    purpose: str
    trainable: bool
    turns: int = 0
    """Turns begun."""
    next_index: int = 0
    steps: int = 0
    tails: dict[str, Tail] = field(default_factory=dict)
    """Recorded ends by chain hash."""
    newest: str | None = None
    """Chain hash of the newest turn's end."""
    answering: dict[str, Any] = field(default_factory=dict)
    """Turns in progress by request digest: a list for each, of the answers that it asked for."""
    stepping: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: str | None = None
    """The final status, once it has one."""
    unwritten: dict[str, Any] | None = None
    """Its row, while that is not on its way to the database."""
    opening: asyncio.Future[None] | None = None
    """The write of its row, where nobody has waited for it yet."""
    write: Callable[[Episode], asyncio.Future[None]] | None = None

    def begin_writing(self) -> None:
        """Send the row to the database, ahead of its first turn."""
        if self.unwritten is not None and self.write is not None:
            self.opening = self.write(self)

    async def opened(self) -> None:
        """Wait until the episode's row is durable."""
        self.begin_writing()
        if self.opening is not None:
            await asyncio.shield(self.opening)
            self.opening = None

    @property
    def turns_left(self) -> int:
        """How many more turns the horizon allows."""
        return max(0, self.horizon - max(self.turns, self.steps))

    def must_be_open(self) -> None:
        """Refuse what comes after the end."""
        if self.ended is not None:
            raise Conflict(f"episode {self.id} has ended ({self.ended})", code="episode_ended")


def hash_of(key: str) -> str:
    """Return the SHA-256 of an API key: keys are never stored."""
    return hashlib.sha256(key.encode()).hexdigest()


class Episodes:
    """All episodes: the open ones in memory, every one in the database."""

    def __init__(
        self, database: Database, writer: Writer, on_end: Callable[[str, str | None], None] | None = None
    ) -> None:
        self._database = database
        self._writer = writer
        self._on_end = on_end
        self._open: OrderedDict[str, Episode] = OrderedDict()
        self.when_ended: list[Callable[[str], None]] = []
        """Called with the id of each episode that ends or is erased, to release what it held."""

    async def open(
        self,
        request: EpisodeOpen,
        *,
        policy_version: int,
        horizon: int,
        play_id: str | None = None,
        purpose: str = "other",
        owner_hash: str | None = None,
        episode_id: str | None = None,
    ) -> tuple[Episode, str]:
        """Begin an episode; return it and its own API key, which is stored only as a hash.

        Its row goes to the database with its first turn, or when somebody waits for `opened()`: that has to come
        before anybody hears of the episode. `episode_id` is its id, where that was made before.
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
        key = f"{EPISODE_KEY}{secrets.token_urlsafe(24)}"
        row = {
            "id": episode.id,
            "status": "open",
            "environment": request.environment,
            "task": request.task,
            "seed": request.seed,
            "horizon": horizon,
            "group_key": request.group,
            "play_id": play_id,
            "purpose": purpose,
            "policy_version": policy_version,
            "trainable": episode.trainable,
            "key_hash": hash_of(key),
            "owner_hash": owner_hash,
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
        episode = self._open.get(episode_id)
        if episode is None:
            episode = await asyncio.to_thread(self._read_back, episode_id)
        episode.must_be_open()
        self._remember(episode)
        return episode

    async def find_live(self, owner_hash: str, hashes: list[str]) -> str | None:
        """Return the open live episode of this key that has recorded the longest beginning of a conversation."""

        def search() -> str | None:
            found = (
                sa.select(NodeRow.episode_id, NodeRow.chain_hash)
                .join(EpisodeRow, EpisodeRow.id == NodeRow.episode_id)
                .where(
                    EpisodeRow.owner_hash == owner_hash,
                    EpisodeRow.status == "open",
                    EpisodeRow.environment.is_(None),
                    NodeRow.chain_hash.in_(hashes),
                )
                .order_by(NodeRow.id.desc())
            )
            with self._database.read() as session:
                rows = session.execute(found).all()
            return max(rows, key=lambda row: hashes.index(row.chain_hash)).episode_id if rows else None

        return await asyncio.to_thread(search)

    def begin_turn(self, episode: Episode, count: int = 1) -> range:
        """Count a turn against the horizon; return the indexes of its `count` answers.

        Raises:
            HorizonReached: all turns are used.
        """
        episode.must_be_open()
        if episode.turns >= episode.horizon:
            raise HorizonReached(f"episode {episode.id} has used its {episode.horizon} turns")
        episode.turns += 1
        episode.next_index += count
        return range(episode.next_index - count, episode.next_index)

    async def end(
        self,
        episode: Episode,
        status: str,
        *,
        reason: str | None = None,
        error_class: str | None = None,
        success: bool | None = None,
    ) -> None:
        """End an episode; the first end counts, later ones change nothing."""
        if episode.ended is not None:
            return
        episode.ended = status
        self._forget(episode.id)
        await episode.opened()
        change = (
            sa.update(EpisodeRow)
            .where(EpisodeRow.id == episode.id, EpisodeRow.status == "open")
            .values(status=status, reason=reason, error_class=error_class, success=success, closed_at=time.time())
        )
        await self._writer.write(lambda session: session.execute(change))
        if self._on_end is not None:
            self._on_end(status, error_class)

    async def never_train(self, episode: Episode) -> None:
        """Keep an episode, all that it holds and all that comes, out of every batch."""
        if episode.trainable:
            change = sa.update(EpisodeRow).where(EpisodeRow.id == episode.id).values(trainable=False)
            await self._writer.write(lambda session: session.execute(change))
            episode.trainable = False  # Afterwards: a wish that could not be written is written the next time.

    async def reward(self, episode_id: str, request: RewardRequest) -> RewardView:
        """Record a late or partial reward.

        Raises:
            NotFound: no such episode or turn.
            Conflict: the idempotency key was used with other content, or the episode failed.
        """

        def record(session: Session) -> RewardView:
            episode = session.get(EpisodeRow, episode_id)
            if episode is None:
                raise NotFound(f"no episode {episode_id!r}", code="episode_not_found")
            if episode.status == "error":
                raise Conflict(f"episode {episode_id} failed ({episode.error_class})", code="episode_ended")
            if (
                request.turn is not None
                and session.scalar(
                    sa.select(TurnRow.id).where(TurnRow.episode_id == episode_id, TurnRow.index == request.turn)
                )
                is None
            ):
                raise NotFound(f"episode {episode_id} has no turn {request.turn}", param="turn", code="turn_not_found")
            known = request.key is not None and session.scalar(
                sa.select(RewardRow).where(RewardRow.episode_id == episode_id, RewardRow.key == request.key)
            )
            if known:
                if (known.value, known.source, known.turn_index) != (request.value, request.source, request.turn):
                    raise Conflict(
                        f"reward key {request.key!r} was used with other content",
                        param="key",
                        code="idempotency_conflict",
                    )
                return reward_view(known)
            row = RewardRow(
                id=new_id("rw"),
                episode_id=episode_id,
                turn_index=request.turn,
                value=request.value,
                source=request.source,
                key=request.key,
                created_at=time.time(),
            )
            session.add(row)
            return reward_view(row)

        try:
            return await self._writer.write(record)
        except sa.exc.IntegrityError:  # Another server has recorded the same key, or erased the episode, just now.
            return await self._writer.write(record)

    async def fail_interrupted(self) -> int:
        """After a restart: environment episodes of the process before have lost their environment; return how many."""
        change = (
            sa.update(EpisodeRow)
            .where(EpisodeRow.status == "open", EpisodeRow.environment.is_not(None))
            .values(status="closed", trainable=False, closed_at=time.time(), reason="the server restarted")
        )
        return await self._writer.write(lambda session: int(session.execute(change).rowcount))  # type: ignore[attr-defined]

    def open_versions(self) -> set[int]:
        """Versions on which episodes are still open in memory."""
        return {episode.policy_version for episode in self._open.values()}

    def held_versions(self) -> set[int]:
        """Versions that the engine has to hold on to: of episodes in environments, which answer turn after turn.

        Other open episodes may be silent for days; what they began on can be loaded again when they go on.
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

    def _forget(self, episode_id: str) -> None:
        self._open.pop(episode_id, None)
        for release in self.when_ended:
            release(episode_id)

    def _remember(self, episode: Episode) -> None:
        self._open[episode.id] = episode
        self._open.move_to_end(episode.id)
        if len(self._open) > KEPT_IN_MEMORY:
            idle = next((e for e in self._open.values() if e.environment is None and not e.answering), None)
            if idle is not None:
                del self._open[idle.id]

    def _read_back(self, episode_id: str) -> Episode:
        with self._database.read() as session:
            row = session.get(EpisodeRow, episode_id)
            if row is None:
                raise NotFound(f"no episode {episode_id!r}", code="episode_not_found")
            turns = session.execute(
                sa.select(TurnRow.index, TurnRow.choice).where(TurnRow.episode_id == episode_id)
            ).all()
            steps = session.scalar(
                sa.select(sa.func.count()).select_from(StepRow).where(StepRow.episode_id == episode_id)
            )
            nodes = session.scalars(
                sa.select(NodeRow).where(NodeRow.episode_id == episode_id).order_by(NodeRow.id)
            ).all()
        episode = Episode(
            id=row.id,
            environment=row.environment,
            task=row.task,
            seed=row.seed,
            horizon=row.horizon,
            policy_version=row.policy_version,
            purpose=row.purpose,
            trainable=row.trainable,
            turns=sum(choice == 0 for _, choice in turns),
            next_index=max((index for index, _ in turns), default=-1) + 1,
            steps=steps or 0,
            ended=None if row.status == "open" else row.status,
        )
        ends: dict[int, Tail] = {}
        for node in nodes:
            parent = ends.get(node.parent_id) if node.parent_id is not None else None
            ends[node.id] = Tail(node.id, parent, unpack_ids(node.token_ids))
            if node.chain_hash is not None:
                episode.tails[node.chain_hash] = ends[node.id]
                episode.newest = node.chain_hash
        return episode


def insert_episodes(session: Session, rows: Sequence[dict[str, Any] | None]) -> list[None]:
    """Write the rows of new episodes; None is none."""
    if there := [row for row in rows if row is not None]:
        session.connection().execute(sa.insert(cast(sa.Table, EpisodeRow.__table__)), there)
    return [None] * len(rows)


def reward_view(row: RewardRow) -> RewardView:
    """Return a reward as a message."""
    return RewardView(id=row.id, value=row.value, source=row.source, turn=row.turn_index, created_at=row.created_at)
