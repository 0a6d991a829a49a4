"""What vLLM's engine hands to its routes, made of token ids that were sampled elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from vllm import SamplingParams
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsLists

from server.engines.scripted import _alternatives
from server.rendering.bytes_tokenizer import IM_END, SPECIAL
from upturn.wire import TurnView


@dataclass(frozen=True)
class Sampled:
    """The tokens of one answer, with what the engine reports of them."""

    token_ids: list[int]
    logprobs: list[float]
    tops: list[dict[int, float]]
    """Alternatives, or empty."""
    finish: str
    ends: tuple[int, ...]
    """Tokens that end an answer, the model's `eos_token` first."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return the scripted engine's tokenizer as vLLM wants it: the id of a byte is the byte."""
    tokenizer = Tokenizer(models.BPE({char: byte for byte, char in bytes_to_unicode().items()}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def sampled(turn: TurnView, alternatives: int, most: int | None) -> Sampled:
    """Return the tokens of a turn that the scripted engine sampled, with this many alternatives."""
    ids, values = turn.token_ids[turn.prompt_tokens :], turn.logprobs[turn.prompt_tokens :]
    logprobs = [value for value in values if value is not None]
    tops = [_alternatives(i, x, alternatives) for i, x in zip(ids, logprobs, strict=True)] if alternatives else []
    cut = len(ids) == most and ids[-1] != IM_END
    return Sampled(ids, logprobs, tops, "length" if cut else "stop", (IM_END,))


def outputs(
    tokenizer: PreTrainedTokenizerFast,
    prompt_ids: list[int],
    answer: Sampled,
    *,
    stop: Sequence[str] = (),
    logprobs: int | None = None,
    delta: bool,
) -> list[RequestOutput]:
    """Return what vLLM's engine would hand to a route after each token."""
    params = SamplingParams(stop=list(stop), logprobs=logprobs)
    asked: Any = SimpleNamespace(sampling_params=params, prompt_token_ids=prompt_ids, request_id="id")
    text = FastIncrementalDetokenizer(tokenizer, asked)
    processor = LogprobsProcessor.from_new_request(tokenizer, asked)
    handed = []
    for position, token_id in enumerate(answer.token_ids):
        last = position == len(answer.token_ids) - 1
        ended = last and answer.finish == "stop"
        at_token = ended and token_id in answer.ends
        matched = text.update([token_id], at_token)
        if logprobs is not None:
            add(processor, token_id, answer.logprobs[position], answer.tops[position] if answer.tops else {})
        stop_reason: Any = matched
        if at_token and token_id != answer.ends[0]:
            stop_reason = token_id
        listed = processor.logprobs
        output = CompletionOutput(
            index=0,
            text=text.get_next_output_text(last, delta),
            token_ids=[token_id] if delta else list(answer.token_ids[: position + 1]),
            cumulative_logprob=None,
            logprobs=None if listed is None else listed[-1:] if delta else listed,
            finish_reason=answer.finish if last else None,
            stop_reason=stop_reason,
        )
        handed.append(RequestOutput("id", "", prompt_ids, None, [output], finished=last))
    return handed


def processor_of(tokenizer: PreTrainedTokenizerFast, alternatives: int) -> LogprobsProcessor:
    """Return what collects the logprobs of an answer."""
    asked: Any = SimpleNamespace(sampling_params=SamplingParams(logprobs=alternatives))
    return LogprobsProcessor.from_new_request(tokenizer, asked)


def add(processor: LogprobsProcessor, token_id: int, logprob: float, top: dict[int, float]) -> None:
    """Add the next token and its alternatives, as the engine reports them: the token first."""
    row = [(token_id, logprob), *top.items()]
    ids, values = np.array([[i for i, _ in row]]), np.array([[x for _, x in row]])
    processor._update_sample_logprobs(LogprobsLists(ids, values, np.array([1]), None))


async def each(items: Sequence[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item
