"""vLLM's own chat route in this process, without an engine: it shows token ids that were sampled elsewhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast
from vllm import SamplingParams
from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.parser import ParserManager
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsLists


class VllmChat:
    """Shows sampled tokens as vLLM's `/v1/chat/completions` does.

    Args:
        tokenizer: the model's tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._serving: Any = object.__new__(OpenAIServingChat)
        vars(self._serving).update(
            model_config=SimpleNamespace(model="policy", hf_config=SimpleNamespace(model_type="llama")),
            chat_template=None,
            chat_template_content_format="auto",
            default_chat_template_kwargs={},
            response_role="assistant",
            return_tokens_as_token_ids=False,
            enable_auto_tools=True,
            enable_force_include_usage=False,
            enable_prompt_tokens_details=False,
            enable_per_request_metrics=False,
            enable_log_outputs=False,
            enable_log_deltas=False,
            request_logger=None,
            system_fingerprint=None,
            _include_reasoning_tokens_details=False,
            parser_cls=ParserManager.get_parser(
                tool_parser_name="hermes", enable_auto_tools=True, model_name="policy", tokenizer=tokenizer
            ),
        )

    async def whole(self, body: dict[str, Any], prompt_ids: list[int], sampled: Any) -> dict[str, Any]:
        """Return the answer to a request that sampled these tokens."""
        request = ChatCompletionRequest(**body)
        *_, last = self._outputs(request, prompt_ids, sampled, delta=False)
        shown = await self._serving.chat_completion_full_generator(
            request,
            _each([last]),
            "id",
            "policy",
            [],
            self._tokenizer,
            RequestResponseMetadata(request_id="id"),
            self._serving._make_parser(request, self._tokenizer, {}),
        )
        answer: dict[str, Any] = shown.model_dump()
        return answer

    async def stream(self, body: dict[str, Any], prompt_ids: list[int], sampled: Any) -> list[dict[str, Any]]:
        """Return the chunks of the same answer as a stream."""
        request = ChatCompletionRequest(**body)
        events = self._serving.chat_completion_stream_generator(
            request,
            _each(self._outputs(request, prompt_ids, sampled, delta=True)),
            "id",
            "policy",
            [],
            self._tokenizer,
            RequestResponseMetadata(request_id="id"),
            {},
        )
        lines = [line.removeprefix("data: ").strip() async for line in events]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]

    def logprobs(
        self, tokenizer: PreTrainedTokenizerFast, token_ids: list[int], tops: list[dict[int, float]]
    ) -> dict[str, Any]:
        """Return the `logprobs` of tokens whose alternatives, the token itself first, are given."""
        asked: Any = SimpleNamespace(sampling_params=SamplingParams(logprobs=20))
        processor = LogprobsProcessor.from_new_request(tokenizer, asked)
        for top in tops:
            processor._update_sample_logprobs(
                LogprobsLists(np.array([[*top]]), np.array([[*top.values()]]), np.array([1]), None)
            )
        shown = self._serving._create_chat_logprobs(token_ids, processor.logprobs, tokenizer, 5)
        entries: dict[str, Any] = shown.model_dump()
        return entries

    def _outputs(self, request: Any, prompt_ids: list[int], sampled: Any, *, delta: bool) -> list[RequestOutput]:
        """Return what vLLM's engine would hand to the route after each token."""
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        params = SamplingParams(stop=stop, logprobs=(request.top_logprobs or 0) if request.logprobs else None)
        asked: Any = SimpleNamespace(sampling_params=params, prompt_token_ids=prompt_ids, request_id="id")
        text = FastIncrementalDetokenizer(self._tokenizer, asked)
        logprobs = LogprobsProcessor.from_new_request(self._tokenizer, asked)
        outputs = []
        for position, token_id in enumerate(sampled.token_ids):
            last = position == len(sampled.token_ids) - 1
            ended = last and sampled.finish == "stop"
            at_token = ended and token_id in sampled.ends
            matched = text.update([token_id], at_token)
            if request.logprobs:
                others = [*sampled.tops[position].items()] if sampled.tops else []
                row = [(token_id, sampled.logprobs[position]), *others]
                logprobs._update_sample_logprobs(
                    LogprobsLists(np.array([[i for i, _ in row]]), np.array([[x for _, x in row]]), np.array([1]), None)
                )
            stop_reason: Any = matched
            if at_token and token_id != sampled.ends[0]:
                stop_reason = token_id
            listed = logprobs.logprobs
            output = CompletionOutput(
                index=0,
                text=text.get_next_output_text(last, delta),
                token_ids=[token_id] if delta else list(sampled.token_ids[: position + 1]),
                cumulative_logprob=None,
                logprobs=None if listed is None else listed[-1:] if delta else listed,
                finish_reason=sampled.finish if last else None,
                stop_reason=stop_reason,
            )
            outputs.append(RequestOutput("id", "", prompt_ids, None, [output], finished=last))
        return outputs


async def _each(outputs: list[RequestOutput]) -> AsyncIterator[RequestOutput]:
    for output in outputs:
        yield output
