"""OpenAI's completion request, and the chat request for each of its prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from server.api.dialects.chat_request import ChatRequest, StreamOptions
from server.api.dialects.translation import checked
from server.errors import BadRequest
from server.recording.turn_request import TurnRequest

DEFAULT_TOKENS = 16  # OpenAI's default.
MOST_ANSWERS = 128  # Same as for chat.
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]


class PromptRequest(ChatRequest):
    """A chat request for the answers to one prompt."""

    prompt_ids: list[int]
    position: int
    """Index of the prompt in its request, so that equal prompts are distinct requests."""

    def turn_request(self, context_tokens: int, **call: Any) -> TurnRequest:
        """Return the `TurnRequest` whose whole prompt is these ids."""
        return replace(super().turn_request(context_tokens, **call), prompt_ids=self.prompt_ids)


class CompletionRequest(BaseModel):
    """OpenAI's request. Unknown fields are passed to the engine as sampling parameters."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(max_length=MOST_ANSWERS, fail_fast=True)]
        | Annotated[list[Ids], Field(max_length=MOST_ANSWERS, fail_fast=True)]
    )
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MOST_ANSWERS)
    best_of: int | None = Field(default=None, ge=1)
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63 - 128)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, of which each ends the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, each as text or token ids.

        Raises:
            BadRequest: there is no prompt or too many, or the request uses an unsupported feature.
        """
        refused = {"echo": self.echo, "suffix": self.suffix, "best_of": (self.best_of or 1) > (self.n or 1)}
        for name, asked in refused.items():
            if asked:
                raise BadRequest(f"this server does not support {name!r}", param=name, code="unsupported_parameter")
        ids = [each for each in self.prompt if isinstance(each, int)]
        several = [each for each in self.prompt if not isinstance(each, int)]
        chosen: list[str | list[int]] = [self.prompt] if isinstance(self.prompt, str) else [ids] if ids else several
        if not 1 <= len(chosen) * (self.n or 1) <= MOST_ANSWERS:
            raise BadRequest(f"prompts x n must be between 1 and {MOST_ANSWERS}", param="prompt")
        return chosen

    def chat(self, position: int, text: str, ids: list[int]) -> PromptRequest:
        """Return the chat request for the answers to one prompt."""
        extra = {
            name: value for name, value in (self.model_extra or {}).items() if name not in PromptRequest.model_fields
        }
        return checked(
            PromptRequest,
            {
                **extra,
                "model": self.model,
                "messages": [{"role": "prompt", "content": text}],
                "prompt_ids": ids,
                "position": position,
                "max_tokens": self.max_tokens or DEFAULT_TOKENS,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "n": self.n,
                "stop": self.stop,
                "seed": self.seed,
                "stream": self.stream,
                "logprobs": self.logprobs is not None,
                "top_logprobs": self.logprobs,
            },
        )
