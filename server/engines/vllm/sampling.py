"""Samples and scores through vLLM, and reports which version sampled each token (step 3).

vLLM reports versions only in an answer's last chunk, as spans that are exact when weights are replaced under a pause.
Tokens that arrive before a replacement begins belong to the version at that moment. Later tokens are passed on at once
too, since agents wait for them, with the likely version; the last piece of such an answer then reports the versions of
all its tokens, and those are recorded. An answer with an adapter stays on that adapter.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

from server.engines.protocol import ENGINE_FIELDS, FinishReason, Piece, SamplingParams
from server.engines.vllm.answer import RESTART_S, Tokens, check_spans, chunk_of, read_spans
from server.engines.vllm.command import MAX_LOGPROBS, is_cpu_build, vocabulary_size
from server.engines.vllm.frames import Chunk
from server.engines.vllm.http import VllmHttp
from server.engines.vllm.weights import VllmWeights
from server.errors import BadRequest, ContextTooLong, EngineError, NotFound

Chunks = Callable[[str, list[int], dict[str, Any], bool], AsyncGenerator[list[Chunk], None]]
"""Yields the answer to a prompt: of a model, to token ids, with sampling parameters, whole or not."""
SPOTS, SPOT_TOKENS = 12, 36
"""Number of tokens checked in a text while other requests are answered, and the first tokens they are taken from if the
whole text matters (this project's choice). On 2 cores a prompt of 100 tokens delays other requests by 280 ms with an
adapter, and by 35 ms without one (measured)."""


class VllmSampler:
    """Sends prompts to vLLM and reads its answers.

    Args:
        http: the connections to vLLM.
        answers: the way to vLLM's answers.
        weights: the loaded versions.
        spot_checks: `spot_check` scores a few tokens only, on a CPU.
    """

    def __init__(self, http: VllmHttp, answers: Chunks, weights: VllmWeights, *, spot_checks: bool) -> None:
        self._http, self._answers, self._weights, self._spot_checks = http, answers, weights, spot_checks
        self.context_tokens = 0
        """Longest prompt plus answer, once vLLM is up."""

    async def generate(
        self, version: int, prompt_ids: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Sample one answer; the module's docstring explains how each token gets its version."""
        weights = self._weights
        version = await weights.ready(version)
        room = self.context_tokens - len(prompt_ids)
        if room < 1:
            raise ContextTooLong(f"the prompt has {len(prompt_ids)} tokens; the context is {self.context_tokens}")
        sampling = _sampling(params, room)
        replacements, passed_on, certain, held = weights.replacements, 0, 0, Tokens()
        is_adapter = version in weights.adapters
        async with aclosing(self._answers(weights.model_name(version), prompt_ids, sampling, whole)) as arriving:
            async for chunks in arriving:
                for chunk in chunks:
                    held.add(chunk)
                received = passed_on + len(held.ids)
                finish = cast("FinishReason | None", chunks[-1].finish_reason)
                replaced = weights.replacements != replacements
                if finish is not None:
                    spans = [(version, 0, received)] if is_adapter else read_spans(chunks[-1], received)
                    check_spans(spans, version, certain)
                    for piece in held.pieces(spans, passed_on, params.top_logprobs, finish, replaced=replaced):
                        yield piece
                    return
                if held.ids:
                    likely = weights.sampling if replaced else version
                    for piece in held.pieces([(likely, 0, received)], passed_on, params.top_logprobs):
                        yield piece
                    passed_on, held = received, Tokens()
                    certain = certain if replaced else received
        raise EngineError("vLLM's answer was cut off", retry_after_s=RESTART_S)

    async def score(self, version: int, token_ids: list[int]) -> list[float]:
        """Return [T-1] logprobs of each token after the first; vLLM reads no cached state for such a request."""
        entries = await self._prompt_logprobs(version, token_ids, 0)
        return [entry[token_id] for entry, token_id in zip(entries, token_ids[1:], strict=True)]

    async def score_top(self, version: int, token_ids: list[int], count: int) -> list[dict[int, float]]:
        """Return [T-1] logprobs by token id: of each token after the first, and of the `count` likeliest."""
        if self._spot_checks and is_cpu_build():  # It crashes: see `spot_check`.
            raise BadRequest(
                "logprobs of a prompt are not available with adapters on a CPU: serve full weights (weights = full)",
                code="unsupported_parameter",
            )
        return await self._prompt_logprobs(version, token_ids, count)

    async def _prompt_logprobs(self, version: int, token_ids: list[int], count: int) -> list[dict[int, float]]:
        weights = self._weights
        if version not in weights.versions:
            raise NotFound(f"version {version} is not loaded")
        if len(token_ids) >= self.context_tokens:
            raise ContextTooLong(
                f"scoring {len(token_ids)} tokens needs a context of one more token; the context is "
                f"{self.context_tokens}"
            )
        version = await weights.ready(version)
        is_adapter = version in weights.adapters
        answer = await self._ask(version, token_ids, {"max_tokens": 1, "prompt_logprobs": count})
        if not is_adapter:
            check_spans(read_spans(chunk_of(answer["choices"][0]), 1), version, 1)
        return [{int(i): one["logprob"] for i, one in entry.items()} for entry in answer["prompt_logprobs"][1:]]

    async def spot_check(self, version: int, token_ids: list[int], last: int | None = None) -> Sequence[float | None]:
        """Score a text; with adapters on a CPU only at a few places, by one-token answers with many alternatives.

        vLLM's CPU build crashes on logprobs of a prompt with an adapter while it answers other requests
        (`add_lora_logits` takes their indexes for the prompt's), and reading the whole prompt at once would also delay
        them.
        """
        if not self._spot_checks or not is_cpu_build():
            return await self.score(version, token_ids)
        assert self._weights.base is not None
        # More alternatives than the vocabulary has crash vLLM too.
        alternatives = min(MAX_LOGPROBS, vocabulary_size(self._weights.base.path))
        scores: list[float | None] = [None] * (len(token_ids) - 1)
        newest = len(scores) if last else min(len(scores), SPOT_TOKENS)
        considered = min(last or newest, newest)
        for end in range(newest, newest - considered, -max(1, considered // SPOTS)):
            sampling = {"max_tokens": 1, "temperature": 1.0, "logprobs": alternatives}
            answer = await self._ask(version, token_ids[:end], sampling)
            listed = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            scores[end - 1] = next((a["logprob"] for a in listed if a["token_id"] == token_ids[end]), None)
        return scores

    async def _ask(self, version: int, token_ids: list[int], sampling: dict[str, Any]) -> Any:
        """Return vLLM's whole answer to a prompt."""
        body = {"model": self._weights.model_name(version), "token_ids": token_ids, "sampling_params": sampling}
        return await self._http.control("POST", "/inference/v1/generate", body)


def _sampling(params: SamplingParams, room: int) -> dict[str, Any]:
    """Return vLLM's sampling parameters for an answer of at most `room` tokens; unknown fields are left out."""
    sampling = {
        **{name: value for name, value in params.extra.items() if name in ENGINE_FIELDS},
        "n": 1, "max_tokens": min(params.max_tokens, room), "temperature": params.temperature,
        "top_p": params.top_p, "top_k": params.top_k, "stop": list(params.stop), "seed": params.seed,
        "stop_token_ids": list(params.stop_ids), "logprobs": params.top_logprobs, "detokenize": bool(params.stop),
    }  # fmt: skip
    if params.json_schema is not None:
        # As text, which can hold whatever JSON can: integers of any size, half surrogates.
        constraint = {"json": json.dumps(params.json_schema)} if params.json_schema else {"json_object": True}
        sampling["structured_outputs"] = {**constraint, "disable_any_whitespace": True}
    return sampling
