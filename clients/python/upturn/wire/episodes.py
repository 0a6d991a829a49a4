"""Episodes: open, act, reward, close, read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from upturn.wire.base import Message
from upturn.wire.feedback import LARGEST_REWARD, FeedbackView
from upturn.wire.keys import EpisodeTraining

METADATA_KEYS = 64
METADATA_BYTES = 16_384
METADATA_DEPTH = 32
"""Most metadata of an episode or a request: keys, bytes of JSON, and objects and lists within each other."""


def check_metadata(metadata: dict[str, Any]) -> None:
    """Check that metadata is small and can be stored and returned.

    Raises:
        ValueError: it is too large or too deep, or has text or numbers that JSON cannot express.
    """
    if len(metadata) > METADATA_KEYS:
        raise ValueError(f"metadata has {len(metadata)} keys; the most are {METADATA_KEYS}")
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError as error:
        raise ValueError("metadata contains text that is not valid Unicode") from error
    except RecursionError as error:
        raise ValueError("metadata is nested too deeply") from error
    except ValueError as error:
        raise ValueError("metadata contains a number that JSON cannot express") from error
    if size > METADATA_BYTES:
        raise ValueError(f"metadata has {size} bytes as JSON; the most are {METADATA_BYTES}")
    level: list[Any] = [metadata]
    for _ in range(METADATA_DEPTH):
        level = [inner for value in level for inner in _inside(value)]
    if any(isinstance(value, dict | list) for value in level):
        raise ValueError(f"metadata is nested too deeply; the most are {METADATA_DEPTH} levels")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


class ChatMessage(Message):
    """A chat message written by an environment."""

    role: Literal["system", "user", "assistant"]
    content: str


class EpisodeOpen(Message):
    """Open an episode on an environment's task, or, without an environment, for a live agent."""

    environment: str | None = None
    task: str | None = None
    """Required with an environment."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    horizon: int | None = Field(default=None, ge=1, le=10_000)
    """Maximum number of turns; None is the server's default."""
    group: str | None = Field(default=None, max_length=200)
    """Episodes with the same group are compared with each other (GRPO's group)."""
    policy: str | None = Field(default=None, max_length=200)
    """`name`, `name@N`, `name@champion` or `name@head`; None for the version of live traffic (champion or canary)."""
    trainable: bool = True
    """False keeps the episode out of every batch."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Anything for the transcript, in at most 64 keys and 16,384 bytes of JSON."""

    @field_validator("metadata")
    @classmethod
    def metadata_is_small(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        """Refuse metadata that is large or cannot be returned."""
        check_metadata(metadata)
        return metadata


class EpisodeOpened(Message):
    """A new episode."""

    id: str
    messages: list[ChatMessage]
    """First messages to send: the environment's instructions and first observation. Empty for a live agent."""
    tools: list[dict[str, Any]]
    """The environment's actions as OpenAI function tools; empty for a text-only environment."""
    base_url: str
    """An OpenAI `base_url` that ties every call to this episode."""
    key: str
    """An API key that ties every call to this episode; shown only here."""
    horizon: int
    policy_version: int


class ToolUse(Message):
    """A call to one of the environment's tools."""

    name: str = Field(max_length=200)
    arguments: dict[str, Any] = Field(default_factory=dict)


class StepRequest(Message):
    """Act in the episode's environment, by an answer's text or by a tool call."""

    action: str | None = Field(default=None, max_length=1_000_000)
    """The model's whole answer, from which the environment extracts the action."""
    tool_call: ToolUse | None = None

    @model_validator(mode="after")
    def has_one_action(self) -> StepRequest:
        """Check that exactly one of the two is set."""
        if (self.action is None) == (self.tool_call is None):
            raise ValueError("set either action or tool_call")
        return self


class StepResult(Message):
    """The environment's response to an action."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    """The episode was cut by the horizon, or by the environment's own limit."""
    turns_left: int
    """Turns that the horizon still allows."""
    valid: bool = True
    """False if the environment found no action in the answer."""
    success: bool | None = None
    """The environment's verdict on the episode; set on the last step."""


class RewardRequest(Message):
    """A late or partial reward."""

    value: float = Field(ge=-LARGEST_REWARD, le=LARGEST_REWARD, allow_inf_nan=False)
    source: str = Field(default="user", min_length=1, max_length=100)
    """Who gives it; a source's rule decides how its rewards count. The names of the server's scorers are reserved."""
    turn: int | None = Field(default=None, ge=0, lt=2**31)
    """Index of the turn that earned the reward; None for the whole episode."""
    key: str | None = Field(default=None, max_length=200)
    """Idempotency key: the same content under the same key is recorded once; different content is a conflict."""


class TurnReward(RewardRequest):
    """A reward for the episode of something that the server answered, by its id."""

    id: str = Field(min_length=1, max_length=200)
    """Id of a completion, response, message, output item, tool call or turn, or of the episode."""


class RewardView(Message):
    """A recorded reward."""

    id: str
    value: float
    source: str
    turn: int | None
    created_at: float
    episode_id: str | None = None
    """The episode, in the answer to a reward by another id."""


class EpisodeClose(Message):
    """End an episode."""

    reason: str | None = Field(default=None, max_length=1000)


class VersionSpan(Message):
    """Consecutive tokens of an answer that one policy version sampled."""

    version: int
    first: int
    """Index of the first of these tokens in the answer."""
    tokens: int


class TurnTokens(Message):
    """The tokens that a turn adds to what it extends: of its prompt's new messages, then of its answer.

    All lists share the length N.
    """

    first: int
    """Index of the first of them among all of the turn's tokens."""
    ids: list[int]
    """[N]"""
    pieces: list[str]
    """[N] the tokens as text; joined, they are what the model read and wrote. A character of several tokens is in the
    last of them, and the others are empty."""
    sampled: list[bool]
    """[N] whether the policy, or the author of a demonstration, wrote the token."""
    trained: list[bool]
    """[N] whether a learner step may train the token: it is sampled, and its turn and its episode are trainable."""
    logprobs: list[float | None]
    """[N] the engine's natural logarithm at sampling time; None for tokens that no policy sampled."""
    versions: list[int | None]
    """[N] the version that sampled the token."""


class TurnView(Message):
    """One recorded turn."""

    id: str
    index: int
    messages: list[dict[str, Any]]
    """The request's new messages."""
    answer: dict[str, Any]
    """The assistant's message."""
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    policy_version: int | None
    """Version that sampled the last token; None for a demonstration."""
    policy_versions: list[VersionSpan] = Field(default_factory=list)
    """All versions that sampled the answer, in order; several if weights were swapped meanwhile."""
    trainable: bool
    untrainable_reason: str | None
    token_ids: list[int]
    """[T] prompt and sampled tokens."""
    loss_mask: list[int]
    """[T] 1 for tokens that the policy sampled."""
    logprobs: list[float | None]
    """[T] natural logarithm; None for tokens that were not sampled."""
    created_at: float
    extends: int | None = None
    """Index of the turn at whose end this one begins; None for the beginning of a conversation. An episode whose turns
    do not form a chain has branches."""
    forked: bool = False
    """It does not extend the turn before it, although the episode had turns."""
    temperature: float | None = None
    duration_ms: float = 0.0
    """From the start of sampling to the end of the answer."""
    tokens: TurnTokens | None = None
    """Only with `tokens=true`."""


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
    """Current sum over its steps and, by the rules of their sources, its rewards; None without any reward."""
    metadata: dict[str, Any]
    continues: str | None = None
    """The ended episode whose conversation this one continues."""
    opened_at: float
    closed_at: float | None
    turns: list[TurnView]
    steps: list[StepView]
    rewards: list[RewardView]
    success: bool | None = None
    """The environment's verdict."""
    policy_version: int | None = None
    """Version on which it was opened."""
    trained: list[EpisodeTraining] = Field(default_factory=list)
    """The learner steps whose batches contained it, with its advantage and weight in each."""
    feedback: list[FeedbackView] = Field(default_factory=list)
    """What people said about it, oldest first."""
    shows: str | None = None
    """The episode of which this one is the demonstration that a person wrote."""


class EpisodeSummary(Message):
    """An episode in a list, without its transcript."""

    id: str
    status: str
    """`open`, `terminated`, `truncated`, `closed` or `error`."""
    error_class: str | None
    reason: str | None
    environment: str | None
    task: str | None
    group: str | None
    play_id: str | None
    policy_version: int
    """Version on which it was opened."""
    trainable: bool
    success: bool | None
    reward: float | None
    """Current sum over its steps and, by the rules of their sources, its rewards; None without any reward."""
    metadata: dict[str, Any]
    continues: str | None
    """The ended episode whose conversation this one continues."""
    turns: int
    """Number of recorded turns."""
    last_turn_at: float | None
    opened_at: float
    closed_at: float | None
    live: bool = False
    """The server did not play it."""
    completion_tokens: int = 0
    """Tokens of its answers."""
    versions: list[int] = Field(default_factory=list)
    """Versions that sampled the last tokens of its answers, in ascending order."""
    untrainable: dict[str, int] = Field(default_factory=dict)
    """Turns that cannot be trained on, by reason."""


class EpisodeList(Message):
    """A page of episodes, the newest first."""

    data: list[EpisodeSummary]
    next: str | None
    """What `after` must be for the next page; None on the last one. A page of a search can be empty."""
    missing: int = 0
    """Episodes that the search could not consider yet, since they are still being indexed; 0 if it used no index."""
