"""Writes a turn, its row and its nodes, in one transaction before the answer leaves (step 4 of the straight line)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import Conflict
from server.recording.conversation import hide
from server.recording.episode import Episode, Tail
from server.recording.episodes import insert_episodes
from server.recording.matching.candidates import ENDED, FOLLOWED, FREE, UNSURE
from server.recording.matching.talk import End
from server.recording.tokens import chain_hash, pack_ids, pack_logprobs
from server.store.tables import ConversationEndRow, EpisodeRow, NodeRow, PolicyVersionRow, TurnRow
from server.store.writer import Many, Writer

REFUSED_VERSION = "refused_version"
"""Why the learner must not train on a turn whose version was refused: its tokens may be of any weights."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive sampled tokens of one policy version."""

    version: int | None
    """None for a demonstration."""
    token_ids: list[int]
    """[K]"""
    logprobs: list[float] | None
    """[K]; None for a demonstration."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered request: the recorded ids that it extends, and the new ones."""

    ids: list[int]
    """[T] the whole prompt."""
    parent: Tail | None
    """The recorded end that it extends, or None for a new beginning."""
    new_ids: list[int]
    """[P] ids after the parent."""
    new_messages: list[dict[str, Any]]
    """Messages after the parent."""
    chain_hash: str
    """Hash of all messages."""
    forked: bool
    """The episode has turns, and the prompt does not extend the newest one."""


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A sampled turn, ready to be recorded."""

    id: str
    index: int
    digest: str
    """SHA-256 of the request."""
    prompt: Prompt
    answer: dict[str, Any]
    """The assistant's message."""
    spans: list[Span]
    finish_reason: str = "stop"
    temperature: float = 1.0
    untrainable_reason: str | None = None
    duration_ms: float = 0.0
    choice: int = 0
    """Index of the answer among the answers to its request."""
    idempotency_key: str | None = None
    end: End | None = None
    """The conversation with the answer, by which its next request is found; None in an episode of an environment."""

    @property
    def completion_tokens(self) -> int:
        """Number of sampled tokens."""
        return sum(len(span.token_ids) for span in self.spans)

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the whole prompt."""
        return len(self.prompt.ids)

    @property
    def forked(self) -> bool:
        """Whether the prompt does not extend the episode's newest turn."""
        return self.prompt.forked

    @property
    def chain_hash(self) -> str:
        """Hash of all messages, including the answer."""
        return chain_hash(self.prompt.chain_hash, self.answer)

    @property
    def policy_version(self) -> int | None:
        """Version that sampled the last token; None for a demonstration or an empty answer."""
        return self.spans[-1].version if self.spans else None


class Recorder:
    """Records turns through the database's one writer."""

    def __init__(
        self,
        writer: Writer,
        on_turn: Callable[[NewTurn], None] | None = None,
        on_change: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Connect the parts.

        Args:
            writer: the database's one writer.
            on_turn: called with each recorded turn.
            on_change: called with the id of the episode of each recorded turn.
        """
        self._writer = writer
        self._on_turn = on_turn
        self._on_change = on_change

    async def record(self, episode: Episode, turn: NewTurn) -> None:
        """Make a turn durable, with the episode's row if it is not written yet, and let the next prompt extend it.

        Raises:
            Conflict: the episode was closed or erased meanwhile; nothing is written late.
            Unavailable: the database failed; nothing was written.
        """
        row, episode.unwritten = episode.unwritten, None
        try:
            try:
                node_id = await self._writer.write(Many(_insert, (episode.id, turn, row)))
            except sa.exc.IntegrityError:  # Its index is taken, by rows that came from elsewhere.
                index = await self._writer.write(lambda session: _free_index(session, episode.id))
                index = max(index, episode.next_index)
                episode.next_index = index + 1
                node_id = await self._writer.write(Many(_insert, (episode.id, replace(turn, index=index), row)))
        except Exception:
            episode.unwritten = row
            raise
        ids = [*turn.prompt.new_ids, *(token for span in turn.spans for token in span.token_ids)]
        episode.newest = turn.chain_hash
        episode.tails[episode.newest] = Tail(node_id, turn.prompt.parent, ids, turn.id)
        if self._on_turn is not None:
            self._on_turn(turn)
        self._on_change(episode.id)

    async def hide(self, turn_id: str, *, owner: str, episode_id: str | None) -> bool:
        """Hide a turn of a caller and keep it from training; return whether there was one to hide."""
        hidden_in = await self._writer.write(lambda session: hide(session, turn_id, owner, episode_id))
        if hidden_in is not None:
            self._on_change(hidden_in)
        return hidden_in is not None


_EPISODE, _TURN, _NODE, _VERSION, _END = (
    cast(sa.Table, row.__table__) for row in (EpisodeRow, TurnRow, NodeRow, PolicyVersionRow, ConversationEndRow)
)
# Built once: building a statement costs more than executing it.
_INSERT_TURN, _INSERT_NODE, _INSERT_END = (sa.insert(table) for table in (_TURN, _NODE, _END))
_STATUSES = sa.select(_EPISODE.c.id, _EPISODE.c.status).where(_EPISODE.c.id.in_(sa.bindparam("ids", expanding=True)))
_REFUSED = sa.select(_VERSION.c.version).where(
    _VERSION.c.version.in_(sa.bindparam("versions", expanding=True)), _VERSION.c.state == "failed"
)
_NEWEST_NODE = sa.select(sa.func.max(_NODE.c.id))
_NEXT_NODES = sa.text("select nextval(pg_get_serial_sequence('node', 'id')) from generate_series(1, :count)")
_CONTINUE = (
    sa.update(_END)
    .where(_END.c.turn_id == sa.bindparam("followed"), _END.c.state != ENDED, _END.c.state != UNSURE)
    .values(state=sa.bindparam("by"))
)


def _insert(session: Session, items: list[tuple[str, NewTurn, dict[str, Any] | None]]) -> list[int | Exception]:
    """Insert turns, and the rows of new episodes; return the id of each turn's last node, or why it was refused.

    Uses bulk statements instead of ORM objects: this is by far the writer's most frequent work.
    """
    connection, turns = session.connection(), [(episode_id, turn) for episode_id, turn, _ in items]
    insert_episodes(session, [row for _, _, row in items])
    statuses = {row["id"]: row["status"] for _, _, row in items if row is not None}
    if known := {episode_id for episode_id, _ in turns}.difference(statuses):
        statuses |= {row.id: row.status for row in connection.execute(_STATUSES, {"ids": list(known)})}
    open_turns = [(episode_id, turn) for episode_id, turn in turns if statuses.get(episode_id) == "open"]
    refused = _refused_versions(connection, [turn for _, turn in open_turns])
    node_ids = _new_node_ids(connection, sum(1 + len(turn.spans) for _, turn in open_turns))
    turn_rows, node_rows, ends = [], [], dict[str, int]()
    for episode_id, turn in open_turns:
        turn_rows.append(_turn_row(episode_id, turn, refused))
        node_rows += _node_rows(episode_id, turn, node_ids)
        ends[turn.id] = node_rows[-1]["id"]
    if turn_rows:
        connection.execute(_INSERT_TURN, turn_rows)
        connection.execute(_INSERT_NODE, node_rows)
    if ends_of_turns := [(episode_id, turn.id, turn.end) for episode_id, turn in open_turns if turn.end is not None]:
        connection.execute(_INSERT_END, [_end_row(*each) for each in ends_of_turns])
        if continued := [
            {"followed": end.follows, "by": UNSURE if end.ambiguous else FOLLOWED}
            for _, _, end in ends_of_turns
            if end.follows is not None
        ]:
            connection.execute(_CONTINUE, continued)
    return [
        ends.get(turn.id)
        or Conflict(f"episode {episode_id} has ended ({statuses.get(episode_id) or 'erased'})", code="episode_ended")
        for episode_id, turn in turns
    ]


def insert_turn(session: Session, row: dict[str, Any], turn: NewTurn) -> None:
    """Insert a new episode with its first turn, within a transaction of the writer."""
    (outcome,) = _insert(session, [(row["id"], turn, row)])
    if isinstance(outcome, Exception):
        raise outcome


def _free_index(session: Session, episode_id: str) -> int:
    """Return the first index after an episode's recorded answers."""
    newest = session.scalar(sa.select(sa.func.max(_TURN.c.index)).where(_TURN.c.episode_id == episode_id))
    return 0 if newest is None else int(newest) + 1


def _new_node_ids(connection: sa.Connection, count: int) -> Iterator[int]:
    """Return ids for new nodes: from PostgreSQL's sequence; on SQLite, which has one writer, after the largest id."""
    if connection.dialect.name == "postgresql":
        return iter([int(row[0]) for row in connection.execute(_NEXT_NODES, {"count": count})])
    newest = connection.execute(_NEWEST_NODE).scalar() or 0
    return iter(range(newest + 1, newest + 1 + count))


def _refused_versions(connection: sa.Connection, turns: list[NewTurn]) -> set[int]:
    """Return the versions among the samplers of some turns that were refused after they had begun to answer."""
    versions = {span.version for turn in turns for span in turn.spans} - {None}
    return set(connection.execute(_REFUSED, {"versions": list(versions)}).scalars()) if versions else set()


def _turn_row(episode_id: str, turn: NewTurn, refused: set[int]) -> dict[str, Any]:
    reason = turn.untrainable_reason
    if reason is None and any(span.version in refused for span in turn.spans):
        reason = REFUSED_VERSION
    return {
        "id": turn.id,
        "episode_id": episode_id,
        "index": turn.index,
        "digest": turn.digest,
        "messages": turn.prompt.new_messages,
        "answer": turn.answer,
        "finish_reason": turn.finish_reason,
        "prompt_tokens": turn.prompt_tokens,
        "completion_tokens": turn.completion_tokens,
        "policy_version": turn.policy_version,
        "temperature": turn.temperature,
        "trainable": reason is None,
        "untrainable_reason": reason,
        "forked": turn.forked,
        "duration_ms": turn.duration_ms,
        "choice": turn.choice,
        "idempotency_key": turn.idempotency_key,
        "created_at": time.time(),
    }


def _end_row(episode_id: str, turn_id: str, end: End) -> dict[str, Any]:
    return {
        "turn_id": turn_id,
        "episode_id": episode_id,
        "exact": end.exact,
        "loose": end.loose,
        "state": FREE,
        "ambiguous": end.ambiguous,
    }


def _node_rows(episode_id: str, turn: NewTurn, ids: Iterator[int]) -> list[dict[str, Any]]:
    """Return the rows of the prompt's new tokens and of each span, each node extending the one before."""
    rows: list[dict[str, Any]] = []
    parent_id = turn.prompt.parent.node_id if turn.prompt.parent else None
    for position, span in enumerate([Span(None, turn.prompt.new_ids, None), *turn.spans]):
        rows.append(
            {
                "id": next(ids),
                "episode_id": episode_id,
                "turn_id": turn.id,
                "parent_id": parent_id,
                "token_ids": pack_ids(span.token_ids),
                "logprobs": None if span.logprobs is None else pack_logprobs(span.logprobs),
                "sampled": position > 0,
                "policy_version": span.version,
                "chain_hash": None,
            }
        )
        parent_id = rows[-1]["id"]
    rows[-1]["chain_hash"] = turn.chain_hash
    return rows
