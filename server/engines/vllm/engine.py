"""The engine over vLLM: starts it, supervises it, and restarts it with its last good weights (step 3).

`process.py` runs the process, `weights.py` loads versions, and `sampling.py` samples from them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, cast

from server.engines.options import VllmOptions
from server.engines.precision import Choice, Precision, stored_precision, tolerance
from server.engines.protocol import ENGINE_FIELDS, Piece, SamplingParams, Weights
from server.engines.vllm.address import Address
from server.engines.vllm.channel import TokenChannel
from server.engines.vllm.command import BASE_MODEL, chosen_precision
from server.engines.vllm.http import VllmHttp
from server.engines.vllm.process import Progress, VllmProcess, answers
from server.engines.vllm.sampling import VllmSampler
from server.engines.vllm.weights import VllmWeights
from server.errors import EngineError, UpturnError

_HEALTH_TIMEOUT_S = 30.0
"""A busy machine may take long to answer a health check."""
_POLL_S, _SAY_EVERY_S = 2.0, 10.0
"""How often a vLLM at a URL is asked whether it answers, and how often that is said."""

logger = logging.getLogger(__name__)


class VllmEngine:
    """A vLLM child process, or a vLLM at a URL."""

    constrains = True
    fields = ENGINE_FIELDS

    def __init__(self, options: VllmOptions, data_dir: Path, progress: Progress = logger.info) -> None:
        self.context_tokens = options.max_model_len or 0
        self.precision: Precision = "float32" if options.dtype == "float32" else "bfloat16"
        self.adapters = options.lora
        self._options, self._data_dir, self._progress = options, data_dir, progress
        self._process: VllmProcess | None = None
        self._http = VllmHttp(lambda: self._spawn(self._fail_unless_healthy()))
        self._weights = VllmWeights(options, data_dir, self._http, self._fail)
        self._channel = TokenChannel(
            lambda: self._spawn(self._fail_unless_healthy()), lambda: self._spawn(self._fail_unless_connected())
        )
        self._sampler = VllmSampler(
            self._http, (self._http if options.url else self._channel).chunks, self._weights, spot_checks=options.lora
        )
        self._failed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def check_tolerance(self) -> float:
        """Mean difference to the learner's logprobs, in nats, that numerics explain."""
        return tolerance(self.precision)

    @property
    def versions(self) -> frozenset[int]:
        """Versions that can be requested now."""
        return self._weights.versions

    @property
    def available(self) -> bool:
        """Whether vLLM is up, to the engine's knowledge."""
        return self._weights.up

    async def healthy(self) -> bool:
        """Return whether vLLM is up, holds its weights, and reports that it is healthy."""
        return self._weights.up and await answers(self._http.address)

    # -------------------------------------------------------------------------------------------- requests

    def generate(
        self, version: int, prompt_ids: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Sample one answer."""
        return self._sampler.generate(version, prompt_ids, params, whole=whole)

    async def score(self, version: int, token_ids: list[int]) -> list[float]:
        """Return [T-1] logprobs of each token after the first."""
        return await self._sampler.score(version, token_ids)

    async def score_top(self, version: int, token_ids: list[int], count: int) -> list[dict[int, float]]:
        """Return [T-1] logprobs by token id: of each token after the first, and of the `count` likeliest."""
        return await self._sampler.score_top(version, token_ids, count)

    async def spot_check(self, version: int, token_ids: list[int], last: int | None = None) -> Sequence[float | None]:
        """Score a text, or a few of its tokens."""
        return await self._sampler.spot_check(version, token_ids, last)

    async def load(self, weights: Weights) -> None:
        """Load a validated version; after a failure vLLM restarts with the previous weights."""
        # A canceled caller must not leave vLLM paused, so the load continues without it.
        await asyncio.shield(self._spawn(self._weights.load(weights)))

    async def unload(self, version: int) -> None:
        """Unload an adapter; answers in progress with it still finish."""
        await self._weights.unload(version)

    # ------------------------------------------------------------------------------------------- lifecycle

    async def start(self, base: Weights, current: Weights) -> None:
        """Start vLLM and serve `current`."""
        if self._options.url is not None and not self._options.url.startswith(("http://", "https://")):
            raise EngineError(f"engine.url is {self._options.url!r}, but an address looks like http://127.0.0.1:8100")
        self._weights.begin(base, current)
        choice = (
            chosen_precision(self._options, base.path)
            if self._options.url is None
            else Choice(stored_precision(base.path))
        )
        self.precision = choice.precision
        if choice.reason:
            self._progress(choice.message)
        if self._options.url is None:
            self._process = VllmProcess(self._options, base.path, self._data_dir, self._progress)
            self._http.open(self._process.address)
        else:
            self._http.open(Address(self._options.url))
        try:
            await self._bring_up(base)
        except BaseException:
            await self.close()
            raise
        self._spawn(self._supervise(base))

    async def close(self) -> None:
        """Stop vLLM; answers in progress fail."""
        self._weights.up = False
        tasks, self._tasks = list(self._tasks), set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._channel.close()
        if self._process is not None:
            await self._process.stop()
        await self._http.close()

    async def _bring_up(self, base: Weights) -> None:
        """Start vLLM (or wait for the one at the URL) and load the last good weights."""
        if self._process is not None:
            await self._process.start()
            await self._channel.open(self._process.address)
        else:
            await self._wait_for_url()
            self.precision = await self._served_precision()
        models = await self._http.control("GET", "/v1/models")
        self.context_tokens = self._sampler.context_tokens = int(models["data"][0]["max_model_len"])
        await self._weights.restore()
        # The first tokens take seconds of compilation, which must not fall into a client's request.
        warm_up = {"model": BASE_MODEL, "token_ids": [0], "sampling_params": {"max_tokens": 3, "logprobs": 0}}
        await self._http.control("POST", "/inference/v1/generate", warm_up)
        self._failed.clear()
        self._weights.serve()

    async def _wait_for_url(self) -> None:
        limit_s = self._options.start_timeout_s
        began, said = time.monotonic(), -_SAY_EVERY_S
        while not await answers(self._http.address):
            waited_s = time.monotonic() - began
            if waited_s > limit_s:
                raise EngineError(
                    f"nothing answers at {self._http.address} (engine.url) for {limit_s:.0f} s "
                    "(engine.start_timeout_s): start vLLM there, or correct the address"
                )
            if waited_s - said >= _SAY_EVERY_S:
                said = waited_s
                self._progress(f"waiting for vLLM at {self._http.address} (engine.url)")
            await asyncio.sleep(_POLL_S)

    async def _served_precision(self) -> Precision:
        """Return the precision that a vLLM at a URL reports; it may run on another machine."""
        try:
            info = await self._http.control("GET", "/server_info")
            found = re.search(r"\bdtype=torch\.(bfloat16|float16|float32)\b", str(info["vllm_config"]))
        except (UpturnError, KeyError, TypeError):
            found = None
        if found is None:
            logger.warning("vLLM does not report its precision; the model's %s is assumed", self.precision)
            return self.precision
        return cast(Precision, found[1])

    async def _supervise(self, base: Weights) -> None:
        """Start vLLM again whenever it ends or fails."""
        while True:
            reason = await self._failure()
            self._weights.up = False
            self._weights.settled.set()
            logger.error("vLLM failed and restarts: %s", reason)
            delay_s = 1.0
            while not self._weights.up:
                if self._process is not None:
                    await self._process.stop()
                try:
                    async with self._weights.lock:
                        await self._bring_up(base)
                except (UpturnError, OSError) as error:
                    # As text: nothing of a conversation can be in an error of starting.
                    logger.error("vLLM could not be restarted; next attempt in %.0f s: %s", delay_s, str(error))
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, 60.0)
            logger.info("vLLM serves %s again", sorted(self.versions))

    async def _failure(self) -> str:
        """Wait until vLLM ends or is reported as failed; return the reason."""
        waits: set[asyncio.Task[Any]] = {asyncio.create_task(self._failed.wait())}
        if self._process is not None:
            waits.add(asyncio.create_task(self._process.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if self._failed.is_set() or self._process is None:
            return "a request or a load failed"
        return f"its process ended: {self._process.why_ended()}"

    def _fail(self) -> None:
        self._weights.up = False
        self._failed.set()

    async def _fail_unless_healthy(self) -> None:
        """Check health after a broken connection, which alone does not prove that vLLM is gone."""
        if self._weights.up and not await answers(self._http.address, timeout_s=_HEALTH_TIMEOUT_S):
            self._fail()

    async def _fail_unless_connected(self) -> None:
        """Connect again after a lost connection, which alone does not prove that vLLM is gone."""
        if self._weights.up and self._process is not None:
            try:
                await self._channel.open(self._process.address)
            except EngineError:
                self._fail()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("background work of the engine failed: %r", error)
