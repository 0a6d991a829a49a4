"""The records: one episode with everything recorded of it.

JSONL and Parquet hold the same fields with the same types. Values whose shape differs from row to row (messages,
metadata, an environment's info) are JSON in a string, so that every row has one schema. A turn holds only its new
messages and tokens, as the tables do, so that a long episode stays small.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _is_object(text: str) -> str:
    if not isinstance(_parsed(text), dict):
        raise ValueError("must be a string that contains a JSON object")
    return text


def _is_messages(text: str) -> str:
    value = _parsed(text)
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise ValueError("must be a string that contains a JSON list of messages")
    return text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


Int = Annotated[int, Field(ge=-(2**31), lt=2**31)]
JsonObject = Annotated[str, AfterValidator(_is_object)]
JsonMessages = Annotated[str, AfterValidator(_is_messages)]


class Record(BaseModel):
    """Base of all records: strict types; additional columns are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", use_attribute_docstrings=True)


class SpanRecord(Record):
    """Consecutive tokens of a turn: its prompt's tokens, or tokens sampled by one policy version."""

    tokens: Annotated[Int, Field(ge=0)]
    sampled: bool
    policy_version: Int | None
    """Version that sampled the tokens; None for a prompt or a demonstration."""


class TurnRecord(Record):
    """One chat request and its answer."""

    id: str
    index: Int
    choice: Int = 0
    """Index of the answer among the answers to one request."""
    extends: Int | None
    """Index of the turn whose end these tokens follow; None for the beginning of a conversation."""
    forked: bool
    messages: JsonMessages
    """The request's new messages."""
    answer: JsonObject
    finish_reason: str
    temperature: float
    prompt_tokens: Int
    completion_tokens: Int
    policy_version: Int | None
    trainable: bool
    untrainable_reason: str | None
    token_ids: list[Int]
    """[T] tokens that this turn adds: of its prompt, then sampled."""
    loss_mask: list[Int]
    """[T] 1 where sampled."""
    logprobs: list[float | None]
    """[T] natural logarithm; None for tokens that were not sampled or have no finite value."""
    spans: list[SpanRecord]
    """The T tokens by origin."""
    digest: str
    chain_hash: str | None
    duration_ms: float
    created_at: float

    @model_validator(mode="after")
    def spans_match_the_mask(self) -> TurnRecord:
        """Check that the three lists have the same length, and that the spans agree with the mask."""
        if not len(self.token_ids) == len(self.loss_mask) == len(self.logprobs):
            raise ValueError(f"turn {self.index}: token_ids, loss_mask and logprobs differ in length")
        if not self.spans or self.loss_mask != [int(s.sampled) for s in self.spans for _ in range(s.tokens)]:
            raise ValueError(f"turn {self.index}: the spans do not agree with loss_mask")
        return self


class StepRecord(Record):
    """One environment transition."""

    index: Int
    action: str
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: JsonObject
    created_at: float


class RewardRecord(Record):
    """A reward from outside the environment."""

    id: str
    value: float
    source: str
    turn: Int | None
    key: str | None
    created_at: float


class TrainedRecord(Record):
    """A learner step that trained on the episode."""

    run_id: str
    step: Int
    policy_version: Int | None
    """The version that this step produced."""
    advantage: float | None
    trained_tokens: float | None


class EpisodeRecord(Record):
    """One episode with everything recorded of it."""

    id: str
    status: Literal["open", "terminated", "truncated", "closed", "error"]
    error_class: str | None
    reason: str | None
    environment: str | None
    task: str | None
    seed: Int
    horizon: Int
    group: str | None
    purpose: str
    policy_version: Int
    trainable: bool
    success: bool | None
    metadata: JsonObject
    opened_at: float
    closed_at: float | None
    reward: float | None = None
    """Sum over `steps` and, by the rules of their sources, `rewards`; None without any reward. Computed on export,
    ignored on import."""
    turns: list[TurnRecord]
    """In the order in which they were recorded."""
    steps: list[StepRecord]
    rewards: list[RewardRecord]
    runs: list[TrainedRecord] = []
    """Ignored on import."""

    @model_validator(mode="after")
    def turns_extend_earlier_ones(self) -> EpisodeRecord:
        """Check that each turn extends an earlier one, and that the token counts add up."""
        lengths: dict[int | None, int] = {None: 0}
        for turn in self.turns:
            if turn.extends not in lengths or turn.index in lengths:
                raise ValueError(f"turn {turn.index} is a duplicate, or extends a turn that does not come before it")
            length = lengths[turn.extends] + len(turn.token_ids)
            if length != turn.prompt_tokens + turn.completion_tokens:
                raise ValueError(
                    f"turn {turn.index} and what it extends are {length} tokens, not "
                    f"{turn.prompt_tokens} + {turn.completion_tokens}"
                )
            lengths[turn.index] = length
        return self
