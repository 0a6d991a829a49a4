"""The engine in this process: transformers on a worker thread. For laptops without vLLM, and for tests.

Step 3 of the straight line. It is simple rather than fast: `local_worker.py` computes one token of each answer in turn,
and weights change only between tokens. torch is imported when the engine starts, not with this module.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from server.engines.factory import LocalOptions
from server.engines.local_worker import Answer, Worker
from server.engines.protocol import Piece, SamplingParams, Weights
from server.errors import BadRequest, Conflict, ContextTooLong, NotFound, UpturnError

TOLERANCE_FLOAT32, TOLERANCE_HALF = 2e-3, 0.12


class LocalEngine:
    """A transformers model, its adapters, and the thread that computes with them."""

    adapters = True
    constrains = False

    def __init__(self, options: LocalOptions) -> None:
        self.context_tokens = options.context_tokens or 0
        self.check_tolerance = TOLERANCE_FLOAT32 if options.dtype == "float32" else TOLERANCE_HALF
        self.versions: frozenset[int] = frozenset()
        self._worker = Worker(options)
        self._base: Weights | None = None
        self._full: Weights | None = None
        self._replaced: set[int] = set()
        """Full versions whose place the present one took."""
        self._one_load = asyncio.Lock()

    async def start(self, base: Weights, current: Weights) -> None:
        """Load the base and then, over it or in its place, `current`."""
        self._worker.start()
        try:
            self.context_tokens, precise = await self._worker.run(lambda: self._worker.open_model(base))
        except BaseException:
            await self.close()
            raise
        self.check_tolerance = TOLERANCE_FLOAT32 if precise else TOLERANCE_HALF
        self._base = self._full = base
        self.versions = frozenset({base.version})
        if current.version != base.version:
            await self.load(current)
            self._replaced.clear()

    async def close(self) -> None:
        """End the thread; answers in flight fail."""
        await asyncio.to_thread(self._worker.stop)

    @property
    def available(self) -> bool:
        """Whether the thread runs."""
        return self._worker.running()

    async def healthy(self) -> bool:
        """The same: the thread shares this process's fate."""
        return self._worker.running()

    async def generate(
        self, version: int, prompt_ids: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Sample one answer, one token a piece."""
        if version not in self.versions and version in self._replaced and self._full is not None:
            version = self._full.version
        if version not in self.versions:
            raise NotFound(f"version {version} is not loaded")
        room = self.context_tokens - len(prompt_ids)
        if room < 1:
            raise ContextTooLong(f"the prompt has {len(prompt_ids)} tokens, the context is {self.context_tokens}")
        if not prompt_ids:
            raise BadRequest("the prompt has no tokens")
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Piece | UpturnError]()
        answer = Answer(
            version,
            prompt_ids,
            params,
            min(params.max_tokens, room),
            lambda item: loop.call_soon_threadsafe(pieces.put_nowait, item),
        )
        await self._worker.run(lambda: self._worker.answers.append(answer))
        try:
            while True:
                item = await pieces.get()
                if isinstance(item, UpturnError):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            answer.wanted = False

    async def score(self, version: int, token_ids: list[int]) -> list[float]:
        """Return [T-1] logprobs of each token after the first."""
        if version not in self.versions:
            raise NotFound(f"version {version} is not loaded")
        if len(token_ids) > self.context_tokens:
            raise ContextTooLong(f"the text has {len(token_ids)} tokens, the context is {self.context_tokens}")
        return await self._worker.run(lambda: self._worker.score(version, token_ids))

    async def spot_check(self, version: int, token_ids: list[int], last: int | None = None) -> list[float]:
        """The same, of all tokens."""
        return await self.score(version, token_ids)

    async def load(self, weights: Weights) -> None:
        """Load a validated version between two tokens."""
        async with self._one_load:
            if weights.kind == "adapter":
                if self._full != self._base:
                    raise Conflict("an adapter needs the base weights, which full weights have replaced")
                if weights.version not in self.versions:
                    await self._worker.run(lambda: self._worker.add_adapter(weights))
                self.versions |= {weights.version}
            else:
                await self._worker.run(lambda: self._worker.replace(weights))
                self._replaced = (self._replaced | self.versions) - {weights.version}
                self._full, self.versions = weights, frozenset({weights.version})

    async def unload(self, version: int) -> None:
        """Forget an adapter; answers that use it end on it."""
        async with self._one_load:
            if self._full is not None and version in self.versions and version != self._full.version:
                self.versions -= {version}
                await self._worker.run(lambda: self._worker.retired.add(version))
