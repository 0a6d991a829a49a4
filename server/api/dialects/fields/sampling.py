"""The fields of a request that say how tokens are drawn. Chat, responses and completions share them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from server.engines.protocol import ENGINE_FIELDS, SamplingParams
from server.errors import BadRequest

MOST_STOPS = 64
"""Maximum number of stop strings, and of stop tokens; each is searched for after every token."""
MOST_LISTED = 1024
"""Maximum entries of `logit_bias`, `bad_words` and `allowed_token_ids`."""


def _integral(value: Any) -> Any:
    """Return 100 for 100.0, which some clients send: JSON has one type of numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_integral)]
"""A whole number, also in the spelling of a float."""
TokenId = Annotated[Whole, Field(ge=0, lt=2**31)]


class SamplingFields(BaseModel):
    """How tokens are drawn."""

    model_config = ConfigDict(extra="allow", strict=True)
    NEUTRAL: ClassVar[dict[str, Any]] = {
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "repetition_penalty": 1,
        "min_p": 0,
        "min_tokens": 0,
        "logit_bias": {},
        "bad_words": [],
        "ignore_eos": False,
    }
    """Values with which an engine's field has no effect: SDKs send them, and the turn stays trainable."""

    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Whole | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    stop_token_ids: list[TokenId] | None = Field(default=None, max_length=MOST_STOPS, fail_fast=True)
    seed: Whole | None = Field(default=None, ge=-(2**63), lt=2**63 - 128)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    logit_bias: dict[str, float] | None = Field(default=None, max_length=MOST_LISTED)
    min_tokens: Whole | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    bad_words: list[str] | None = Field(default=None, max_length=MOST_LISTED, fail_fast=True)
    allowed_token_ids: list[TokenId] | None = Field(default=None, min_length=1, max_length=MOST_LISTED, fail_fast=True)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, of which each ends the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling_fields(self) -> dict[str, Any]:
        """Return the fields of this class that the request sets, for another request of this kind."""
        return {name: value for name in SamplingFields.model_fields if (value := getattr(self, name)) is not None}

    def sampling(self, max_tokens: int, **more: Any) -> SamplingParams:
        """Return the engine's parameters for an answer of at most `max_tokens` tokens.

        Raises:
            BadRequest: there are too many stop strings, or an empty one.
        """
        stop = self.stop_strings
        if len(stop) > MOST_STOPS:
            raise BadRequest(f"stop has {len(stop)} strings; at most {MOST_STOPS} are supported", param="stop")
        if "" in stop:
            raise BadRequest("stop: an empty string cannot end an answer", param="stop")
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            stop=stop,
            stop_ids=tuple(self.stop_token_ids or ()),
            seed=self.seed,
            extra={
                name: value
                for name in sorted(ENGINE_FIELDS)
                if (value := getattr(self, name)) is not None and self.NEUTRAL.get(name) != value
            },
            **more,
        )
