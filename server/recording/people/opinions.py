"""Records what people say about an episode: thumbs as rewards, comments, and better answers as demonstrations.

A demonstration is an ended episode of one turn: the exact prompt that the model had, and the answer that it should have
given, rewarded with 1. `sft` can train on it as on any live episode, and `dpo` compares it with the answer that it
corrects if that one was the first; other algorithms need sampled answers.
It belongs to the owner of the episode that it corrects, is kept from training where that one is, and is erased with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import Conflict, ContextTooLong, NotFound
from server.recording.conversation import read_conversation
from server.recording.given_rewards import record_reward
from server.recording.reading.feedback import DEMONSTRATION, feedback_view
from server.recording.recorder import NewTurn, Prompt, Span, insert_turn
from server.recording.tokens import chain_hashes, digest, unpack_ids
from server.recording.transcript import path_to
from server.rendering.render import Renderer
from server.store.database import Database, new_id
from server.store.tables import EpisodeRow, FeedbackRow, NodeRow, TurnRow
from server.store.writer import Writer
from upturn.wire import FeedbackRequest, FeedbackView, RewardRequest

MOST = 1000
"""Feedback on one episode; as for its rewards."""


Changed = list[str]
"""Episodes that got a reward; empty if the same feedback was recorded before."""


class Opinions:
    """Records feedback."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        renderer: Renderer,
        context_tokens: Callable[[], int],
        when_changed: list[Callable[[str], None]],
    ) -> None:
        """Connect the parts.

        Args:
            database: the database to read.
            writer: its one writer.
            renderer: writes answers as token ids.
            context_tokens: returns how many tokens the model can read.
            when_changed: called with the id of each episode that is rewarded or added.
        """
        self._database = database
        self._writer = writer
        self._renderer = renderer
        self._context_tokens = context_tokens
        self._when_changed = when_changed

    async def record(self, episode_id: str, request: FeedbackRequest) -> FeedbackView:
        """Record feedback.

        Raises:
            NotFound: there is no such episode or turn.
            Conflict: the idempotency key was used with other content, a thumb is about a failed episode, or there is
                too much feedback already.
            ContextTooLong: the edited answer does not fit the model's context.
        """
        shown: NewTurn | None = None
        if request.answer is not None and request.turn is not None:
            shown = await asyncio.to_thread(self._demonstration, episode_id, request.turn, request.answer)

        def write(session: Session) -> tuple[FeedbackView, Changed]:
            return _write(session, episode_id, request, shown)

        try:
            view, changed = await self._writer.write(write)
        except sa.exc.IntegrityError:  # The same key was recorded meanwhile, or the episode was erased.
            view, changed = await self._writer.write(write)
        for rewarded in changed:
            for tell in self._when_changed:
                tell(rewarded)
        return view

    def _demonstration(self, episode_id: str, index: int, text: str) -> NewTurn:
        """Return the turn that shows an answer, on the prompt of a recorded turn. Blocks."""
        with self._database.read() as session:
            turn_id = session.scalar(
                sa.select(TurnRow.id).where(TurnRow.episode_id == episode_id, TurnRow.index == index)
            )
            nodes = session.scalars(sa.select(NodeRow).where(NodeRow.episode_id == episode_id)).all()
        past = turn_id and read_conversation(self._database, turn_id, owner="", episode_id=episode_id)
        if not past:
            raise NotFound(f"episode {episode_id} has no turn {index}", param="turn", code="turn_not_found")
        own = sorted((node for node in nodes if node.turn_id == turn_id), key=lambda node: node.id)
        before = path_to(own[0], {node.id: node for node in nodes})[:-1]
        prompt = [*before, *takewhile(lambda node: not node.sampled, own)]
        prompt_ids = [token for node in prompt for token in unpack_ids(node.token_ids)]
        in_thoughts = self._renderer.parser(prompt_ids).in_thoughts
        answer_ids = [
            *(self._renderer.end_of_thoughts() if in_thoughts else []),
            *self._renderer.text(text),
            *self._renderer.end_ids,
        ]
        if len(prompt_ids) + len(answer_ids) > self._context_tokens():
            raise ContextTooLong.of(len(prompt_ids) + len(answer_ids), self._context_tokens())
        hashes = chain_hashes(past.messages)
        return NewTurn(
            id=new_id("turn"),
            index=0,
            digest=digest(past.messages),
            prompt=Prompt(prompt_ids, None, prompt_ids, past.messages, hashes[-1] if hashes else "", forked=False),
            answer={"role": "assistant", "content": text},
            spans=[Span(None, answer_ids, None)],
        )


def _write(
    session: Session, episode_id: str, request: FeedbackRequest, shown: NewTurn | None
) -> tuple[FeedbackView, Changed]:
    episode = session.get(EpisodeRow, episode_id)
    if episode is None:
        raise NotFound(f"no episode {episode_id!r}", code="episode_not_found")
    known = request.key is not None and session.scalar(
        sa.select(FeedbackRow).where(FeedbackRow.episode_id == episode_id, FeedbackRow.key == request.key)
    )
    if known:
        said = (known.thumb, known.comment, known.answer, known.turn_index, known.source)
        if said != (request.thumb, request.comment, request.answer, request.turn, request.source):
            raise Conflict(
                f"feedback key {request.key!r} was used with other content", param="key", code="idempotency_conflict"
            )
        return feedback_view(known, known.demonstration_id), []
    _check(session, episode_id, request)
    reward_id = None
    if request.thumb is not None:
        value = 1.0 if request.thumb == "up" else -1.0
        given = RewardRequest(value=value, source=request.source, turn=request.turn)
        reward_id = record_reward(session, episode_id, given).id
    row = FeedbackRow(
        id=new_id("fb"),
        episode_id=episode_id,
        turn_index=request.turn,
        thumb=request.thumb,
        comment=request.comment,
        answer=request.answer,
        source=request.source,
        key=request.key,
        reward_id=reward_id,
        demonstration_id=None if shown is None else _show(session, episode, request, shown),
        created_at=time.time(),
    )
    session.add(row)
    session.flush()
    rewarded = [episode_id] if reward_id is not None else []
    return feedback_view(row, row.demonstration_id), [*rewarded, *filter(None, [row.demonstration_id])]


def _check(session: Session, episode_id: str, request: FeedbackRequest) -> None:
    if request.turn is not None and not session.scalar(
        sa.select(TurnRow.id).where(TurnRow.episode_id == episode_id, TurnRow.index == request.turn)
    ):
        raise NotFound(f"episode {episode_id} has no turn {request.turn}", param="turn", code="turn_not_found")
    count = sa.select(sa.func.count()).select_from(FeedbackRow).where(FeedbackRow.episode_id == episode_id)
    if (session.scalar(count) or 0) >= MOST:
        raise Conflict(
            f"episode {episode_id} has {MOST} pieces of feedback, which is the most", code="too_much_feedback"
        )


def _show(session: Session, episode: EpisodeRow, request: FeedbackRequest, shown: NewTurn) -> str:
    """Add the episode that shows an edited answer; return its id."""
    row: dict[str, Any] = {
        "id": new_id("ep"),
        "status": "open",
        "seed": 0,
        "horizon": 1,
        "purpose": episode.purpose if episode.purpose == "evaluation" else DEMONSTRATION,
        "policy_version": episode.policy_version,
        "trainable": episode.trainable,
        "owner_hash": episode.owner_hash,
        "details": {"corrects": episode.id, "turn": request.turn},
        "opened_at": time.time(),
    }
    insert_turn(session, row, shown)
    ended = sa.update(EpisodeRow).where(EpisodeRow.id == row["id"])
    session.execute(ended.values(status="closed", reason="a person wrote its answer", closed_at=row["opened_at"]))
    record_reward(session, row["id"], RewardRequest(value=1.0, source=request.source))
    return str(row["id"])
