"""The engine over vLLM: tokens in and out over HTTP, full weights swapped in place or LoRA adapters beside the base.

Step 3 of the straight line, and the engine's side of step 12. `vllm_process.py` starts and stops vLLM; this file keeps
its weights right: it remembers what was last loaded well, and when vLLM dies or a load fails, starts it again with
that.

Which version sampled a token. vLLM tells only in an answer's last chunk, as spans that are exact when weights are
replaced under a pause. So tokens that arrive before a replacement begins belong to the version of that moment. Tokens
that arrive later are passed on at once too, since agents wait for them, with the version that is likely; the last piece
of such an answer tells the versions of all of it, and that is what is recorded. An answer with an adapter stays on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from server.engines.factory import VllmOptions
from server.engines.protocol import FinishReason, Piece, SamplingParams, Weights
from server.engines.vllm_answer import RESTART_S, Tokens, check_spans, read_spans
from server.engines.vllm_http import VllmHttp
from server.engines.vllm_process import (
    BASE_MODEL,
    MAX_LOGPROBS,
    Progress,
    VllmProcess,
    answers,
    is_cpu_build,
    resolved_dtype,
    vocabulary,
)
from server.errors import Conflict, ContextTooLong, EngineError, NotFound, UpturnError
from server.models.weights import with_explicit_head

TOLERANCES = {"float32": 2e-3}
HALF_TOLERANCE = 0.12
"""bf16 differs from float32 by 0.035 nats on average (measured)."""

SPOTS, SPOT_TOKENS = 12, 36
"""Tokens of a text that are looked at while others are answered, and where all matter, among how many first ones; ours.
On 2 cores a prompt of 100 tokens holds others up for 280 ms with an adapter, for 35 ms without one (measured)."""

logger = logging.getLogger(__name__)


class VllmEngine:
    """A vLLM child process, or a vLLM at a URL."""

    constrains = True

    def __init__(self, options: VllmOptions, data_dir: Path, progress: Progress = logger.info) -> None:
        self.context_tokens = options.max_model_len or 0
        self.check_tolerance = TOLERANCES.get(options.dtype, HALF_TOLERANCE)
        self.versions: frozenset[int] = frozenset()
        self.adapters = options.lora
        self._options, self._data_dir, self._progress = options, data_dir, progress
        self._process: VllmProcess | None = None
        self._connections: VllmHttp | None = None
        """Made when the engine starts, in its event loop."""
        self._base: Weights | None = None
        self._full: Weights | None = None
        """The whole model that is served, and that a restart brings back."""
        self._adapters: dict[int, Weights] = {}
        self._replaced: set[int] = set()
        """Full versions whose place the present one took."""
        self._replacements = 0
        """Counts replacements of full weights, from the moment each begins."""
        self._settled = asyncio.Event()
        """Set while no replacement is under way."""
        self._one_load = asyncio.Lock()
        self._up = False
        self._failed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------------ life

    async def start(self, base: Weights, current: Weights) -> None:
        """Start vLLM and serve `current`."""
        if current.kind == "adapter" and not self.adapters:
            raise Conflict("this engine was started without adapters")
        if current.kind == "full" and self.adapters:
            raise Conflict("this engine holds adapters over the base and cannot serve full weights")
        self._base = base
        self._full = base if current.kind == "adapter" else current
        self._adapters = {current.version: current} if current.kind == "adapter" else {}
        self.check_tolerance = TOLERANCES.get(resolved_dtype(self._options, base.path), HALF_TOLERANCE)
        self._connections = VllmHttp(lambda: self._spawn(self._fail_unless_healthy()))
        self._http.url = self._options.url or ""
        try:
            await self._bring_up()
        except BaseException:
            await self.close()
            raise
        self._spawn(self._supervise())

    async def close(self) -> None:
        """Stop vLLM; answers in flight fail."""
        self._up = False
        tasks, self._tasks = list(self._tasks), set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._process is not None:
            await self._process.stop()
        if self._connections is not None:
            await self._connections.close()

    @property
    def _http(self) -> VllmHttp:
        assert self._connections is not None, "the engine was not started"
        return self._connections

    @property
    def available(self) -> bool:
        """Whether vLLM is up, as far as is known."""
        return self._up

    async def healthy(self) -> bool:
        """Whether vLLM is up, holds its weights, and says that it is healthy."""
        return self._up and await answers(self._http.url)

    async def _bring_up(self) -> None:
        """Start vLLM (or wait for the one at the URL) and load what was last served well."""
        assert self._base is not None and self._full is not None
        if self._options.url is None:
            self._process = VllmProcess(self._options, self._base.path, self._data_dir, self._progress)
            self._http.url = await self._process.start()
        else:
            while not await answers(self._http.url):
                self._progress(f"waiting for vLLM at {self._http.url}")
                await asyncio.sleep(2)
        models = await self._http.control("GET", "/v1/models")
        self.context_tokens = int(models["data"][0]["max_model_len"])
        fresh = self._options.url is None and self._full.version == self._base.version
        if fresh or self.adapters:
            await self._http.control("POST", "/update_weight_version", {"new_version": str(self._full.version)})
        else:
            await self._replace(self._full, await self._reloadable(self._full))
        for adapter in self._adapters.values():
            await self._add(adapter)
        # The first tokens compile something for some seconds: not in a client's request.
        warm = {"model": BASE_MODEL, "token_ids": [0], "sampling_params": {"max_tokens": 3, "logprobs": 0}}
        await self._http.control("POST", "/inference/v1/generate", warm)
        self.versions = frozenset({self._full.version, *self._adapters})
        self._failed.clear()
        self._settled.set()
        self._up = True

    async def _supervise(self) -> None:
        """Bring vLLM back whenever it ends or fails."""
        while True:
            reason = await self._failure()
            self._up = False
            self._settled.set()
            logger.error("vLLM failed and is started again: %s", reason)
            delay_s = 1.0
            while not self._up:
                if self._process is not None:
                    await self._process.stop()
                try:
                    async with self._one_load:
                        await self._bring_up()
                except (UpturnError, OSError) as error:
                    logger.error("vLLM could not be started again; next attempt in %.0f s: %s", delay_s, error)
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, 60.0)
            logger.info("vLLM serves %s again", sorted(self.versions))

    async def _failure(self) -> str:
        """Wait until vLLM ends or something reports it as failed; return why."""
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
        self._up = False
        self._failed.set()

    async def _fail_unless_healthy(self) -> None:
        """One broken connection is no proof; a failed health check is. A busy machine may take long to answer it."""
        if self._up and not await answers(self._http.url, timeout_s=30):
            self._fail()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("the engine's background work failed: %r", error)

    # -------------------------------------------------------------------------------------------- sampling

    async def generate(
        self, version: int, prompt_ids: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Sample one answer; see the module's text for how each token gets its version."""
        version = await self._ready(version)
        room = self.context_tokens - len(prompt_ids)
        if room < 1:
            raise ContextTooLong(f"the prompt has {len(prompt_ids)} tokens, the context is {self.context_tokens}")
        sampling = {
            **params.extra, "n": 1, "max_tokens": min(params.max_tokens, room), "temperature": params.temperature,
            "top_p": params.top_p, "top_k": params.top_k, "stop": list(params.stop), "seed": params.seed,
            "stop_token_ids": list(params.stop_ids), "logprobs": params.top_logprobs, "detokenize": bool(params.stop),
        }  # fmt: skip
        if params.json_schema is not None:
            form = {"json": params.json_schema} if params.json_schema else {"json_object": True}
            sampling["structured_outputs"] = {**form, "disable_any_whitespace": True}
        replacements, passed_on, sure, held = self._replacements, 0, 0, Tokens()
        is_adapter = version in self._adapters
        async with aclosing(self._http.choices(self._model(version), prompt_ids, sampling, whole)) as choices:
            async for choice in choices:
                held.add(choice)
                received = passed_on + len(held.ids)
                finish: FinishReason | None = choice["finish_reason"]
                replaced = self._replacements != replacements
                if finish is not None:
                    spans = [(version, 0, received)] if is_adapter else read_spans(choice, received)
                    check_spans(spans, version, sure)
                    for piece in held.pieces(spans, passed_on, params.top_logprobs, finish, replaced=replaced):
                        yield piece
                    return
                if held.ids:
                    likely = self._full.version if replaced and self._settled.is_set() and self._full else version
                    for piece in held.pieces([(likely, 0, received)], passed_on, params.top_logprobs):
                        yield piece
                    passed_on, held = received, Tokens()
                    sure = sure if replaced else received
        raise EngineError("vLLM's answer broke off", retry_after_s=RESTART_S)

    async def score(self, version: int, token_ids: list[int]) -> list[float]:
        """Return [T-1] logprobs of each token after the first; vLLM reads no cached state for such a request."""
        if version not in self.versions:
            raise NotFound(f"version {version} is not loaded")
        if len(token_ids) >= self.context_tokens:
            raise ContextTooLong(
                f"scoring {len(token_ids)} tokens needs a context of one more than that, and it is "
                f"{self.context_tokens}"
            )
        version = await self._ready(version)
        sampling = {"max_tokens": 1, "prompt_logprobs": 0}
        body = {"model": self._model(version), "token_ids": token_ids, "sampling_params": sampling}
        is_adapter = version in self._adapters
        answer = await self._http.control("POST", "/inference/v1/generate", body)
        if not is_adapter:
            check_spans(read_spans(answer["choices"][0], 1), version, 1)
        entries = answer["prompt_logprobs"][1:]
        return [entry[str(token_id)]["logprob"] for entry, token_id in zip(entries, token_ids[1:], strict=True)]

    async def spot_check(self, version: int, token_ids: list[int], last: int | None = None) -> Sequence[float | None]:
        """Score a text; with adapters on a CPU only in some places, by answers of one token with many alternatives.

        vLLM's CPU build dies of logprobs of a prompt with an adapter while it answers others (`add_lora_logits` takes
        the others' indexes for the prompt's), and reading the whole prompt at once would make them wait besides.
        """
        if not self.adapters or not is_cpu_build():
            return await self.score(version, token_ids)
        assert self._base is not None
        many = min(MAX_LOGPROBS, vocabulary(self._base.path))  # One more than there are kills vLLM too.
        found: list[float | None] = [None] * (len(token_ids) - 1)
        newest = len(found) if last else min(len(found), SPOT_TOKENS)
        looked_at = min(last or newest, newest)
        for end in range(newest, newest - looked_at, -max(1, looked_at // SPOTS)):
            sampling = {"max_tokens": 1, "temperature": 1.0, "logprobs": many}
            body = {"model": self._model(version), "token_ids": token_ids[:end], "sampling_params": sampling}
            answer = await self._http.control("POST", "/inference/v1/generate", body)
            alternatives = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found[end - 1] = next((a["logprob"] for a in alternatives if a["token_id"] == token_ids[end]), None)
        return found

    async def _ready(self, version: int) -> int:
        """Wait for a replacement under way; return the version that answers now for `version`."""
        if self._up:
            await self._settled.wait()
        if not self._up or self._full is None:
            raise EngineError("the engine is starting again", retry_after_s=RESTART_S)
        if version in self.versions:
            return version
        if version in self._replaced:
            return self._full.version
        raise NotFound(f"version {version} is not loaded")

    def _model(self, version: int) -> str:
        return _adapter_name(version) if version in self._adapters else BASE_MODEL

    # --------------------------------------------------------------------------------------------- weights

    async def load(self, weights: Weights) -> None:
        """Load a validated version; a failure starts vLLM again with what it served before."""
        # A caller that is cancelled must not leave vLLM paused, so the work goes on without it.
        await asyncio.shield(self._spawn(self._load(weights)))

    async def unload(self, version: int) -> None:
        """Forget an adapter; answers that use it end on it."""
        async with self._one_load:
            if self._adapters.pop(version, None) is None:
                return
            self.versions -= {version}
            if self._up:
                await self._http.control("POST", "/v1/unload_lora_adapter", {"lora_name": _adapter_name(version)})

    async def _load(self, weights: Weights) -> None:
        async with self._one_load:
            if not self._up:
                raise EngineError("the engine is starting again", retry_after_s=RESTART_S)
            if weights.kind == "adapter":
                await self._load_adapter(weights)
                return
            if self.adapters:
                raise Conflict("this engine holds adapters over the base, which full weights would replace")
            directory = await self._reloadable(weights)
            try:
                await self._replace(weights, directory)
            except (UpturnError, OSError) as error:
                self._fail()
                raise EngineError(
                    f"vLLM could not load version {weights.version}: {error}. It is started again with "
                    "the weights before",
                    retry_after_s=RESTART_S,
                ) from error
            finally:
                self._settled.set()
            self._replaced = (self._replaced | self.versions) - {weights.version}
            self._full, self.versions = weights, frozenset({weights.version})

    async def _reloadable(self, weights: Weights) -> Path:
        """Return a directory with these weights and a head of its own; only a base as downloaded may lack one."""
        into = self._data_dir.absolute() / "base-with-head"
        return await asyncio.to_thread(with_explicit_head, weights.path.absolute(), into)

    async def _replace(self, weights: Weights, directory: Path) -> None:
        """Replace the full weights under a pause. Answers in flight are kept and go on with the new weights."""
        self._settled.clear()
        self._replacements += 1
        await self._http.control("POST", "/pause?mode=keep&clear_cache=true")
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        await self._http.control("POST", "/collective_rpc", reload)
        await self._http.control("POST", "/update_weight_version", {"new_version": str(weights.version)})
        await self._http.control("POST", "/resume")

    async def _load_adapter(self, weights: Weights) -> None:
        if not self.adapters:
            raise Conflict("this engine was started without adapters")
        if (present := self._adapters.get(weights.version)) is not None:
            if present != weights:
                raise Conflict(f"version {weights.version} is loaded from {present.path}; a version never changes")
            return
        if len(self._adapters) >= self._options.max_cpu_loras:
            raise Conflict(f"the engine holds {len(self._adapters)} adapters, its most; unload one first")
        await self._add(weights)
        self._adapters[weights.version] = weights
        self.versions |= {weights.version}

    async def _add(self, weights: Weights) -> None:
        """Load an adapter under its own name; a vLLM that was there before us may have it already."""
        name = _adapter_name(weights.version)
        if self._options.url is not None:
            models = await self._http.control("GET", "/v1/models")
            if any(model["id"] == name for model in models["data"]):
                await self._http.control("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        body = {"lora_name": name, "lora_path": str(weights.path.absolute())}
        await self._http.control("POST", "/v1/load_lora_adapter", body)


def _adapter_name(version: int) -> str:
    return f"v{version}"
