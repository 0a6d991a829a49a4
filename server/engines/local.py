"""The engine in this process: transformers on a worker thread, for laptops without vLLM and for tests (step 3).

It is simple rather than fast: `local_worker.py` computes one token of each answer in turn, and weights change only
between tokens. torch is imported when the engine starts, not with this module.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from server.engines.local_worker import Answer, Worker
from server.engines.options import LocalOptions
from server.engines.precision import Precision, tolerance
from server.engines.protocol import Piece, SamplingParams, Weights
from server.errors import BadRequest, Conflict, ContextTooLong, NotFound, UpturnError

logger = logging.getLogger(__name__)


class LocalEngine:
    """A transformers model with its adapters, computed on a thread."""

    adapters = True
    constrains = False
    fields = frozenset({"ignore_eos"})

    def __init__(self, options: LocalOptions) -> None:
        self.context_tokens = options.context_tokens or 0
        self.precision: Precision = "float32" if options.dtype == "float32" else "bfloat16"
        self.versions: frozenset[int] = frozenset()
        self._worker = Worker(options)
        self._base: Weights | None = None
        self._full: Weights | None = None
        self._replaced: set[int] = set()
        """Full versions that the present one has replaced."""
        self._one_load = asyncio.Lock()

    @property
    def check_tolerance(self) -> float:
        """Mean difference to the learner's logprobs, in nats, that numerics explain."""
        return tolerance(self.precision)

    async def start(self, base: Weights, current: Weights) -> None:
        """Load the base, then `current` over it or in its place."""
        self._worker.start()
        try:
            self.context_tokens, choice = await self._worker.call(lambda: self._worker.open_model(base))
        except BaseException:
            await self.close()
            raise
        self.precision = choice.precision
        if choice.reason:
            logger.info(choice.message)
        self._base = self._full = base
        self.versions = frozenset({base.version})
        if current.version != base.version:
            await self.load(current)
            self._replaced.clear()

    async def close(self) -> None:
        """Stop the thread; answers in progress fail."""
        await asyncio.to_thread(self._worker.stop)

    @property
    def available(self) -> bool:
        """Whether the thread is running."""
        return self._worker.running()

    async def healthy(self) -> bool:
        """Return `available`: the thread cannot fail apart from this process."""
        return self._worker.running()

    async def generate(
        self, version: int, prompt_ids: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Sample one answer; each piece holds one token."""
        if version not in self.versions and version in self._replaced and self._full is not None:
            version = self._full.version
        if version not in self.versions:
            raise NotFound(f"version {version} is not loaded")
        room = self.context_tokens - len(prompt_ids)
        if room < 1:
            raise ContextTooLong(f"the prompt has {len(prompt_ids)} tokens; the context is {self.context_tokens}")
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
        await self._worker.call(lambda: self._worker.answers.append(answer))
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
        self._check_score(version, token_ids)
        return await self._worker.call(lambda: self._worker.score(version, token_ids))

    async def score_top(self, version: int, token_ids: list[int], count: int) -> list[dict[int, float]]:
        """Return [T-1] logprobs by token id: of each token after the first, and of the `count` likeliest."""
        self._check_score(version, token_ids)
        return await self._worker.call(lambda: self._worker.score_top(version, token_ids, count))

    def _check_score(self, version: int, token_ids: list[int]) -> None:
        if version not in self.versions:
            raise NotFound(f"version {version} is not loaded")
        if len(token_ids) > self.context_tokens:
            raise ContextTooLong(f"the text has {len(token_ids)} tokens; the context is {self.context_tokens}")

    async def spot_check(self, version: int, token_ids: list[int], last: int | None = None) -> list[float]:
        """Score all tokens."""
        return await self.score(version, token_ids)

    async def load(self, weights: Weights) -> None:
        """Load a validated version, between two tokens."""
        async with self._one_load:
            if weights.kind == "adapter":
                if self._full != self._base:
                    raise Conflict("an adapter needs the base weights, which full weights have replaced")
                if weights.version not in self.versions:
                    await self._worker.call(lambda: self._worker.add_adapter(weights))
                self.versions |= {weights.version}
            else:
                await self._worker.call(lambda: self._worker.replace(weights))
                self._replaced = (self._replaced | self.versions) - {weights.version}
                self._full, self.versions = weights, frozenset({weights.version})

    async def unload(self, version: int) -> None:
        """Unload an adapter; answers in progress with it still finish."""
        async with self._one_load:
            if self._full is not None and version in self.versions and version != self._full.version:
                self.versions -= {version}
                await self._worker.call(lambda: self._worker.retired.add(version))
