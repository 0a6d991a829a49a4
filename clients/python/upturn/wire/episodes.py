"""Environments and episodes: open, act, reward, close, read."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from upturn.wire.base import Message
from upturn.wire.feedback import LARGEST_REWARD


class EnvironmentView(Message):
    """One environment that this server can play, and how it has been doing since the server started."""

    name: str
    description: str
    splits: dict[str, int]
    """Number of tasks in each split; the splits are disjoint, and declared by Upturn, not by the environment."""
    isolation: str
    """Where it runs: `inline` (in the server's loop), `thread`, or `host` (a process of its own)."""
    tools: list[dict[str, Any]]
    """Its actions as OpenAI's function tools; empty where there is only text."""
    missing: str | None
    """What has to be installed before it can be played, or why it cannot be loaded."""
    open: int
    """Instances that exist now."""
    started: int
    errors: dict[str, int]
    """Failures by class."""


class EnvironmentList(Message):
    """All environments."""

    data: list[EnvironmentView]
    kinds: list[str]
    """Kinds that take an argument after a colon, such as `gymnasium:CartPole-v1`."""


class TaskList(Message):
    """Tasks of one split, in an order that is the same on every machine."""

    environment: str
    split: str
    total: int
    """Tasks of the whole split."""
    tasks: list[str]


class ChatMessage(Message):
    """One chat message as an environment writes it."""

    role: Literal["system", "user", "assistant"]
    content: str


class EpisodeOpen(Message):
    """Open an episode: of an environment's task, or (with no environment) of a live agent."""

    environment: str | None = None
    task: str | None = None
    """Required with an environment."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    horizon: int | None = Field(default=None, ge=1, le=10_000)
    """Largest number of turns; None is the server's default."""
    group: str | None = Field(default=None, max_length=200)
    policy: str | None = Field(default=None, max_length=200)
    """`name`, `name@N`, `name@champion` or `name@head`; None is what live traffic gets: the champion, or a canary."""
    trainable: bool = True
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("metadata")
    @classmethod
    def metadata_is_text_that_can_be_given_back(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        """JSON can spell text that is no Unicode (half a surrogate pair), which no answer could carry."""
        try:
            json.dumps(metadata, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("metadata has text that is not Unicode") from error
        return metadata


class EpisodeOpened(Message):
    """An episode that has begun."""

    id: str
    messages: list[ChatMessage]
    """What to send first: the environment's instructions and first observation; empty for a live agent."""
    tools: list[dict[str, Any]]
    """The environment's actions as OpenAI's function tools; empty where there is only text."""
    base_url: str
    """An OpenAI `base_url` that ties every call to this episode."""
    key: str
    """An API key that ties every call to this episode; shown only here."""
    horizon: int
    policy_version: int


class ToolUse(Message):
    """A call of one of the environment's tools."""

    name: str = Field(max_length=200)
    arguments: dict[str, Any] = Field(default_factory=dict)


class StepRequest(Message):
    """Act in the episode's environment: by an answer's text, or by a tool call."""

    action: str | None = Field(default=None, max_length=1_000_000)
    """The model's whole answer; the environment finds the action in it."""
    tool_call: ToolUse | None = None

    @model_validator(mode="after")
    def one_way(self) -> StepRequest:
        """Exactly one of the two."""
        if (self.action is None) == (self.tool_call is None):
            raise ValueError("give either action or tool_call")
        return self


class StepResult(Message):
    """What the environment answered."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    """The horizon, or the environment's own limit, cut the episode."""
    turns_left: int
    valid: bool = True
    """False where the environment found no action in the answer."""
    success: bool | None = None
    """The environment's verdict on the episode, with its last step."""


class RewardRequest(Message):
    """A late or partial reward."""

    value: float = Field(ge=-LARGEST_REWARD, le=LARGEST_REWARD, allow_inf_nan=False)
    source: str = Field(default="user", min_length=1, max_length=100)
    """Who gives it. A source's rule says how its rewards count; the names of the server's own scorers are theirs."""
    turn: int | None = Field(default=None, ge=0, lt=2**31)
    """Index of the turn that earned it; None is the whole episode."""
    key: str | None = Field(default=None, max_length=200)
    """Idempotency key: the same key with the same content is recorded once, with other content it is a conflict."""


class RewardView(Message):
    """A recorded reward."""

    id: str
    value: float
    source: str
    turn: int | None
    created_at: float


class EpisodeClose(Message):
    """End an episode."""

    reason: str | None = Field(default=None, max_length=1000)


class TurnView(Message):
    """One recorded turn."""

    id: str
    index: int
    messages: list[dict[str, Any]]
    """The request's messages that were new in this turn."""
    answer: dict[str, Any]
    """The assistant's message."""
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    policy_version: int | None
    """Version that sampled the last token; None for a demonstration."""
    trainable: bool
    untrainable_reason: str | None
    token_ids: list[int]
    """[T] prompt and sampled tokens."""
    loss_mask: list[int]
    """[T] 1 where the policy sampled."""
    logprobs: list[float | None]
    """[T] natural logarithm, None where not sampled."""
    created_at: float


class StepView(Message):
    """One recorded environment step."""

    index: int
    action: str
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class EpisodeView(Message):
    """The whole transcript of an episode."""

    id: str
    status: str
    """`open`, `terminated`, `truncated`, `closed` or `error`."""
    error_class: str | None
    reason: str | None
    environment: str | None
    task: str | None
    seed: int
    horizon: int
    group: str | None
    play_id: str | None
    trainable: bool
    reward: float | None
    """Of its steps and, by the rules of their sources, of its rewards, as of now; None where nobody has rewarded it."""
    metadata: dict[str, Any]
    opened_at: float
    closed_at: float | None
    turns: list[TurnView]
    steps: list[StepView]
    rewards: list[RewardView]
