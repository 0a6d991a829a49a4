"""Shadow answers: the head's answers to the prompts of live turns, recorded with what was served.

They are sampled one at a time, after a turn is answered and recorded, from the recorded token ids of its prompt. They
are never served and never trained on. Turns that the engine has no time for get none.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server import background
from server.engines.protocol import Engine, SamplingParams
from server.errors import UpturnError
from server.recording.tokens import pack_ids, unpack_ids, unpack_logprobs
from server.recording.transcript import mean, nodes_of, path_to
from server.recording.turn import Turn
from server.rendering.render import Renderer
from server.store.database import BROKEN, Database, new_id
from server.store.tables import ShadowRow, TurnRow
from server.store.writer import Writer
from server.versions.routing import Pointers
from server.versions.settings import ShadowSettings
from upturn.wire import ShadowView

log = logging.getLogger("upturn.shadow")


@dataclass(frozen=True, slots=True)
class Served:
    """The part of a recorded turn that a shadow answer needs."""

    prompt_ids: list[int]
    """[P] token ids of the prompt."""
    answer_ids: list[int]
    """[A] token ids of the served answer."""
    logprobs: list[float]
    """[A] logprobs of the served answer, by the version that sampled it."""
    temperature: float


class Shadow:
    """Answers a share of live turns with the head."""

    def __init__(
        self,
        settings: ShadowSettings,
        *,
        database: Database,
        writer: Writer,
        engine: Engine,
        pointers: Pointers,
        renderer: Renderer,
    ) -> None:
        self._settings = settings
        self._database = database
        self._writer = writer
        self._engine = engine
        self._pointers = pointers
        self._renderer = renderer
        self._waiting: asyncio.Queue[str] = asyncio.Queue(settings.waiting)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start answering offered turns."""
        if self._settings.share > 0:
            self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop; waiting turns get no shadow answer."""
        await background.end(self._task)

    def offer(self, turns: list[Turn]) -> None:
        """Queue a share of turns that are being answered, each once it is recorded. Does not delay their requests."""
        if self._task is None:
            return
        for turn in turns:
            drawn = int.from_bytes(hashlib.sha256(turn.id.encode()).digest()[:8])
            if drawn < self._settings.share * 2**64:
                turn.done.add_done_callback(lambda done, turn_id=turn.id: self._queue(done, turn_id))  # type: ignore[misc]

    def _queue(self, done: asyncio.Future[object], turn_id: str) -> None:
        answered = not done.cancelled() and done.exception() is None
        if answered and self._pointers.head != self._pointers.champion and not self._waiting.full():
            self._waiting.put_nowait(turn_id)

    async def _work(self) -> None:
        while True:
            turn_id = await self._waiting.get()
            try:
                await self._answer(turn_id)
            except (*BROKEN, UpturnError) as error:
                log.warning("turn %s gets no shadow answer: %s", turn_id, error)
            except Exception:
                log.exception("turn %s gets no shadow answer", turn_id)

    async def _answer(self, turn_id: str) -> None:
        version = self._pointers.head
        served = await asyncio.to_thread(self._read, turn_id, version)
        if served is None or version == self._pointers.champion:
            return
        params = SamplingParams(
            self._settings.max_tokens, temperature=served.temperature, stop_ids=self._renderer.stop_ids
        )
        ids: list[int] = []
        async with aclosing(self._engine.generate(version, served.prompt_ids, params, whole=True)) as answer:
            async for piece in answer:
                ids += piece.token_ids
        length = len(served.answer_ids)
        scores = (await self._engine.spot_check(version, served.prompt_ids + served.answer_ids, length))[-length:]
        scored = [(mine, its) for mine, its in zip(scores, served.logprobs, strict=True) if mine is not None]
        same = next(
            (n for n, (ours, theirs) in enumerate(zip(ids, served.answer_ids, strict=False)) if ours != theirs),
            min(len(ids), length),
        )
        row = ShadowRow(
            id=new_id("sh"),
            turn_id=turn_id,
            version=version,
            token_ids=pack_ids(ids),
            same_tokens=same,
            text=self._renderer.tokenizer.decode(ids),
            served_tokens=length,
            served_logprob=mean([its for _, its in scored]),
            logprob=mean([mine for mine, _ in scored]),
            created_at=time.time(),
        )
        await self._writer.write(lambda session: self._record(session, row))

    def _record(self, session: Session, row: ShadowRow) -> None:
        if session.get(TurnRow, row.turn_id) is None:
            return  # Its episode has been erased in the meantime.
        session.add(row)
        session.flush()
        beyond = sa.select(ShadowRow.id).order_by(ShadowRow.id.desc()).offset(self._settings.keep).limit(1)
        if (last := session.scalar(beyond)) is not None:
            session.execute(sa.delete(ShadowRow).where(ShadowRow.id <= last))

    def _read(self, turn_id: str, version: int) -> Served | None:
        """Return a turn's prompt and answer; None if it was erased, is untrainable, or was answered by `version`."""
        with self._database.read() as session:
            turn = session.get(TurnRow, turn_id)
            if turn is None or turn.policy_version in (None, version) or turn.untrainable_reason is not None:
                return None
            nodes = nodes_of(session, [turn.episode_id])[turn.episode_id]
        end = [node for node in nodes if node.turn_id == turn_id][-1]
        path = path_to(end, {node.id: node for node in nodes})
        answer = [node for node in path if node.turn_id == turn_id and node.sampled]
        return Served(
            prompt_ids=[token for node in path if node not in answer for token in unpack_ids(node.token_ids)],
            answer_ids=[token for node in answer for token in unpack_ids(node.token_ids)],
            logprobs=[x for node in answer for x in unpack_logprobs(node.logprobs or b"")],
            temperature=turn.temperature,
        )


def read_shadows(database: Database, limit: int) -> list[ShadowView]:
    """Return the newest shadow answers, newest first. Reads the database: not for the event loop."""
    query = (
        sa.select(ShadowRow, TurnRow)
        .join(TurnRow, TurnRow.id == ShadowRow.turn_id)
        .order_by(ShadowRow.id.desc())
        .limit(limit)
    )
    with database.read() as session:
        return [
            ShadowView(
                id=row.id,
                turn_id=turn.id,
                episode_id=turn.episode_id,
                served_version=turn.policy_version,
                served=turn.answer,
                served_tokens=row.served_tokens,
                served_logprob=row.served_logprob,
                version=row.version,
                text=row.text,
                token_ids=unpack_ids(row.token_ids),
                same_tokens=row.same_tokens,
                logprob=row.logprob,
                created_at=row.created_at,
            )
            for row, turn in session.execute(query)
        ]
