"""OpenAI's completion request, and the chat request for each of its prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from server.api.dialects.chat_request import ChatRequest, StreamOptions
from server.api.dialects.fields.check import unsupported
from server.api.dialects.fields.sampling import SamplingFields, Whole
from server.api.dialects.translation import checked
from server.errors import BadRequest
from server.recording.turn_request import TurnRequest

DEFAULT_TOKENS = 16  # OpenAI's default.
MOST_ANSWERS = 128  # Same as for chat.
MOST_LOGPROBS = 20  # Same as for chat.
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]


class PromptRequest(ChatRequest):
    """A chat request for the answers to one prompt."""

    prompt_ids: list[int]
    position: int
    """Index of the prompt in its request, so that equal prompts are distinct requests."""
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MOST_LOGPROBS + 1)

    def turn_request(self, context_tokens: int, **call: Any) -> TurnRequest:
        """Return the `TurnRequest` whose whole prompt is these ids."""
        return replace(super().turn_request(context_tokens, **call), prompt_ids=self.prompt_ids)


class CompletionRequest(SamplingFields):
    """OpenAI's request, with further fields of vLLM's. `fields/table.py` lists every field."""

    model: str
    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(max_length=MOST_ANSWERS, fail_fast=True)]
        | Annotated[list[Ids], Field(max_length=MOST_ANSWERS, fail_fast=True)]
    )
    max_tokens: Whole | None = Field(default=None, ge=0)
    """0 only scores the prompt (`echo` or `prompt_logprobs`); nothing is sampled or recorded."""
    n: Whole | None = Field(default=None, ge=1, le=MOST_ANSWERS)
    best_of: Whole | None = Field(default=None, ge=1)
    logprobs: Whole | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    echo: bool | None = None
    """Show the prompt before the answer, with its logprobs if `logprobs` is set."""
    prompt_logprobs: Whole | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    """Alternatives to show for each token of the prompt."""
    response_format: dict[str, Any] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    metadata: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def scores(self) -> int | None:
        """Number of alternatives that are wanted for each token of the prompt; None if its logprobs are not."""
        wanted = [count for count in (self.prompt_logprobs, self.logprobs if self.echo else None) if count is not None]
        return max(wanted, default=None)

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each as text or token ids.

        Raises:
            BadRequest: there is no prompt or too many, or more answers are to be drawn than returned.
        """
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise BadRequest("max_tokens 0 needs echo or prompt_logprobs", param="max_tokens")
        if self.max_tokens == 0 and self.stream:
            raise BadRequest("a prompt that is only scored (max_tokens 0) cannot be streamed", param="stream")
        if (self.best_of or 1) > (self.n or 1):
            raise unsupported("best_of", "no more answers are drawn than `n` returns")
        ids = [each for each in self.prompt if isinstance(each, int)]
        several = [each for each in self.prompt if not isinstance(each, int)]
        chosen: list[str | list[int]] = [self.prompt] if isinstance(self.prompt, str) else [ids] if ids else several
        if not 1 <= len(chosen) * (self.n or 1) <= MOST_ANSWERS:
            raise BadRequest(f"prompts x n must be between 1 and {MOST_ANSWERS}", param="prompt")
        return chosen

    def chat(self, position: int, text: str, ids: list[int]) -> PromptRequest:
        """Return the chat request for the answers to one prompt."""
        return checked(
            PromptRequest,
            {
                **self.sampling_fields(),
                "model": self.model,
                "messages": [{"role": "prompt", "content": text}],
                "prompt_ids": ids,
                "position": position,
                "max_tokens": DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens,
                "n": self.n,
                "response_format": self.response_format,
                "metadata": self.metadata,
                "stream": self.stream,
                "logprobs": self.logprobs is not None,
                "top_logprobs": self.logprobs and self.logprobs + 1,  # The sampled token, and the likeliest.
                "return_token_ids": self.return_token_ids,
            },
        )
