"""vLLM's own chat route in this process, without an engine: it shows token ids that were sampled elsewhere."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.outputs import RequestOutput
from vllm.parser import ParserManager

from tests.support.vllm_outputs import Sampled, add, each, outputs, processor_of


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

    async def whole(self, body: dict[str, Any], prompt_ids: list[int], sampled: Sampled) -> dict[str, Any]:
        """Return the answer to a request that sampled these tokens."""
        request = ChatCompletionRequest(**body)
        *_, last = self._outputs(request, prompt_ids, sampled, delta=False)
        shown = await self._serving.chat_completion_full_generator(
            request,
            each([last]),
            "id",
            "policy",
            [],
            self._tokenizer,
            RequestResponseMetadata(request_id="id"),
            self._serving._make_parser(request, self._tokenizer, {}),
        )
        answer: dict[str, Any] = shown.model_dump()
        return answer

    async def stream(self, body: dict[str, Any], prompt_ids: list[int], sampled: Sampled) -> list[dict[str, Any]]:
        """Return the chunks of the same answer as a stream."""
        request = ChatCompletionRequest(**body)
        events = self._serving.chat_completion_stream_generator(
            request,
            each(self._outputs(request, prompt_ids, sampled, delta=True)),
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
        processor = processor_of(tokenizer, 20)
        for token_id, top in zip(token_ids, tops, strict=True):
            add(processor, token_id, top[token_id], top)
        shown = self._serving._create_chat_logprobs(token_ids, processor.logprobs, tokenizer, 5)
        entries: dict[str, Any] = shown.model_dump()
        return entries

    def _outputs(
        self, request: ChatCompletionRequest, prompt_ids: list[int], sampled: Sampled, *, delta: bool
    ) -> list[RequestOutput]:
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        return outputs(self._tokenizer, prompt_ids, sampled, stop=stop, logprobs=logprobs, delta=delta)
