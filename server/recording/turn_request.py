"""A chat request to the policy, from any API dialect or player."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from server.engines.protocol import SamplingParams
from server.recording.matching.talk import Talk
from server.rendering.call_schema import call_schema
from server.rendering.tool_calls import CALL_CLOSE


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One chat request: the conversation, and how to sample and parse its answers."""

    messages: list[dict[str, Any]]
    sampling: SamplingParams
    prompt_ids: list[int] | None = None
    """[T] the whole prompt, if the caller supplies token ids; `messages` then only documents it."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    template_options: dict[str, Any] = field(default_factory=dict)
    """Additional arguments of the chat template (`chat_template_kwargs`)."""
    call: str | None = None
    """Name of the tool that the answer must call; empty for any tool, None to let the model decide."""
    reads_calls: bool = True
    """False returns tool calls as plain text (OpenAI's `tool_choice: none`)."""
    parallel_calls: bool = True
    prefill: str = ""
    """Beginning of the answer, which the caller wrote: part of the prompt and of the recorded message."""
    count: int = 1
    """Number of answers to the prompt."""
    logprobs: bool = False
    """The caller reads the logprobs of the sampled tokens."""
    whole: bool = False
    """The caller reads the answer only when it is complete."""
    digest: str = ""
    """SHA-256 of the request, with the episode or conversation that it names. Empty: never share an answer."""
    owner: str = ""
    """SHA-256 of the caller's key."""
    idempotency_key: str | None = None
    retry: bool = False
    """The client marked it as a retry: an earlier copy with the same digest answers it."""
    talk: Talk | None = None
    """The conversation as the record may know it; None in an episode of an environment."""
    weight: int = 0
    """How much there is to render, in characters (`server/heavy.py`)."""

    @property
    def frame(self) -> list[dict[str, Any]]:
        """Tools and template options: the same messages in a different frame are a different conversation."""
        return [*self.tools, {"chat_template_kwargs": self.template_options}] if self.template_options else self.tools

    def params(self, choice: int, max_tokens: int, stop_ids: tuple[int, ...]) -> SamplingParams:
        """Return the engine's parameters for one of the answers.

        Args:
            choice: index of the answer among the request's answers; it shifts the seed.
            max_tokens: tokens left in the model's context after the prompt.
            stop_ids: tokens that end an answer in addition to the engine's own.
        """
        ends = () if self.sampling.extra.get("ignore_eos") else stop_ids
        params = replace(
            self.sampling,
            max_tokens=min(self.sampling.max_tokens, max_tokens),
            stop_ids=(*self.sampling.stop_ids, *ends),
        )
        if params.seed is not None and choice:
            params = replace(params, seed=params.seed + choice)
        if self.call is not None:
            params = replace(params, json_schema=call_schema(self.tools, self.call or None))
        if self.tools and not self.parallel_calls:
            params = replace(params, stop=(*params.stop, CALL_CLOSE))
        return params
