"""The other end of the token channel, in vLLM's API process: an endpoint plugin that answers prompts of token ids.

It asks the `EngineClient` as vLLM's own route for tokens does (`/inference/v1/generate`) and reports the same figures,
without that route's cost per request and per token: HTTP, validation, and JSON.

Only vLLM imports this module, by the entry point `vllm.endpoint_plugins` and because the server names it in
`VLLM_PLUGINS`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from functools import partial
from itertools import islice
from typing import Any

from pydantic import TypeAdapter
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams

from server.engines.vllm.frames import TOKEN_PLUGIN, TOKEN_SOCKET, Ask, Chunk, Failed, Frames, Stop

_LEAST_LOGPROB = -9999.0
"""What vLLM's routes report for an infinite logprob, or one that is not a number."""

logger = logging.getLogger("vllm.upturn")
_sampling_params = TypeAdapter(SamplingParams).validate_python


class TokenEndpoint:
    """vLLM's `EndpointPlugin`."""

    name = TOKEN_PLUGIN
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._server: asyncio.AbstractServer | None = None

    def attach_router(self, app: Any) -> None:
        """Add no HTTP routes."""

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Listen on the socket of the server that started this vLLM."""
        names = {path.name for path in state.openai_serving_models.base_model_paths}
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: Answers(engine_client, names, state.openai_serving_models.lora_requests).frames,
            os.environ[TOKEN_SOCKET],
        )


class Answers:
    """The answers in progress for one connection.

    Args:
        engine: vLLM's `EngineClient`.
        base_names: names of the base weights.
        adapters: vLLM's table of loaded adapters, by name.
    """

    def __init__(self, engine: Any, base_names: set[str], adapters: dict[str, Any]) -> None:
        self._engine, self._base_names, self._adapters = engine, base_names, adapters
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.frames = Frames(Ask | Stop, self._receive, self._stop_all)

    def _receive(self, messages: list[Ask | Stop]) -> None:
        for message in messages:
            if isinstance(message, Ask):
                task = asyncio.create_task(self._answer(message))
                self._tasks[message.number] = task
                task.add_done_callback(partial(self._ended, message.number))
            elif message.number in self._tasks:
                self._tasks[message.number].cancel()

    def _ended(self, number: int, _task: asyncio.Task[None]) -> None:
        del self._tasks[number]

    def _stop_all(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()

    async def _answer(self, ask: Ask) -> None:
        try:
            await self._sample(ask)
        except VLLMClientError as error:
            self.frames.send(Failed(ask.number, 400, str(error)))
        except Exception as error:  # The server raises it.
            logger.exception("an answer failed")
            self.frames.send(Failed(ask.number, 500, str(error) or repr(error)))

    async def _sample(self, ask: Ask) -> None:
        try:
            params = _sampling_params(ask.sampling)
        except (ValueError, TypeError, OverflowError) as error:
            self.frames.send(Failed(ask.number, 400, str(error)))
            return
        params.output_kind = RequestOutputKind.FINAL_ONLY if ask.whole else RequestOutputKind.DELTA
        adapter = self._adapters.get(ask.model)
        if adapter is None and ask.model not in self._base_names:
            self.frames.send(Failed(ask.number, 404, f"the model {ask.model!r} does not exist"))
            return
        prompt = tokens_input(ask.prompt_ids)
        async for output in self._engine.generate(prompt, params, f"tokens-{ask.number}", lora_request=adapter):
            answer = output.outputs[0]
            finish = answer.finish_reason
            if finish == "error":
                self.frames.send(Failed(ask.number, 500, "the engine failed while answering"))
                return
            if answer.token_ids or finish is not None:
                self.frames.send(_chunk(ask, answer, params.logprobs or 0))


def _chunk(ask: Ask, answer: Any, count: int) -> Chunk:
    ids, entries, versions = list(answer.token_ids), answer.logprobs, answer.weight_versions
    chosen = [
        _LEAST_LOGPROB if entry is None or token not in entry else _finite(entry[token].logprob)
        for token, entry in zip(ids, entries, strict=True)
    ]
    return Chunk(
        ask.number,
        ids,
        chosen,
        [{token: _finite(one.logprob) for token, one in islice((entry or {}).items(), count)} for entry in entries]
        if count
        else None,
        answer.finish_reason,
        None if versions is None else [(span.version, span.start, span.end) for span in versions],
    )


def _finite(logprob: float) -> float:
    return _LEAST_LOGPROB if math.isnan(logprob) else max(logprob, _LEAST_LOGPROB)
