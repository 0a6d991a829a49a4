"""The server's end of the token channel: prompts to the vLLM that it started, and their answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from typing import Any

from server.engines.vllm.address import Address
from server.engines.vllm.answer import RESTART_S, error_of
from server.engines.vllm.frames import Ask, Chunk, Failed, Frames, Stop
from server.errors import BadRequest, EngineError

_LOST = "the connection to vLLM was lost"


class TokenChannel:
    """Sends prompts to one vLLM at a time.

    Args:
        on_failure: called when an answer failed in a way that may mean that vLLM is gone.
        on_lost: called when the connection has ended, other than by `close`.
    """

    def __init__(self, on_failure: Callable[[], object], on_lost: Callable[[], object]) -> None:
        self._on_failure, self._on_lost = on_failure, on_lost
        self._numbers = itertools.count(1)
        self._answers: dict[int, _Answer] = {}
        self._frames = Frames(Chunk | Failed, self._receive, lambda: None)

    async def open(self, address: Address) -> None:
        """Connect to a vLLM that has just started.

        Raises:
            EngineError: it does not listen there.
        """
        await self.close()
        path = address.tokens
        loop = asyncio.get_running_loop()
        try:
            _, self._frames = await loop.create_unix_connection(
                lambda: Frames(Chunk | Failed, self._receive, self._lost), str(path)
            )
        except OSError as error:
            raise EngineError(f"vLLM does not answer on its token channel {path}: {error}") from error

    async def close(self) -> None:
        """Disconnect; answers in progress fail."""
        self._frames.close()
        self._fail_all()

    async def chunks(
        self, model: str, prompt_ids: list[int], sampling: dict[str, Any], whole: bool
    ) -> AsyncGenerator[list[Chunk], None]:
        """Yield the answer, each time all chunks that have arrived. Closing the iterator makes vLLM stop.

        Raises:
            BadRequest: vLLM refuses a parameter, or one cannot be sent.
            EngineError: vLLM failed.
        """
        if not self._frames.open:
            raise EngineError(_LOST, retry_after_s=RESTART_S)
        number, frames = next(self._numbers), self._frames
        try:
            frames.send(Ask(number, model, prompt_ids, sampling, whole))
        except (OverflowError, ValueError, TypeError) as error:
            raise BadRequest(f"a sampling parameter cannot be used: {error}") from error
        answer = self._answers[number] = _Answer()
        ended = False
        try:
            while not ended:
                messages = await answer.next()
                last = messages[-1]
                ended = isinstance(last, Failed) or last.finish_reason is not None
                if isinstance(last, Failed):
                    if last.status >= 500 and frames.open:
                        self._on_failure()
                    raise error_of(last.status, last.message)
                yield messages  # type: ignore[misc]
        finally:
            self._answers.pop(number, None)
            if not ended:
                frames.send(Stop(number))

    def _receive(self, messages: list[Chunk | Failed]) -> None:
        for message in messages:
            if answer := self._answers.get(message.number):
                answer.add(message)

    def _lost(self) -> None:
        self._fail_all()
        self._on_lost()

    def _fail_all(self) -> None:
        for number, answer in self._answers.items():
            answer.add(Failed(number, 503, _LOST))


class _Answer:
    """What has arrived of one answer and was not taken yet."""

    __slots__ = ("_arrived", "_messages")

    def __init__(self) -> None:
        self._messages: list[Chunk | Failed] = []
        self._arrived: asyncio.Future[None] | None = None

    def add(self, message: Chunk | Failed) -> None:
        self._messages.append(message)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def next(self) -> list[Chunk | Failed]:
        if not self._messages:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        messages, self._messages = self._messages, []
        return messages
