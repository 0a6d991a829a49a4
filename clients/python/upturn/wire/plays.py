"""Environments; plays: episodes that the server itself plays; demonstrations: turns that a person takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from upturn.wire.base import Message
from upturn.wire.episodes import ChatMessage


class EnvironmentView(Message):
    """An environment that this server can play, and its health since the server started."""

    name: str
    description: str
    splits: dict[str, int]
    """Number of tasks in each split. The splits are disjoint, and declared by Upturn, not by the environment."""
    isolation: str
    """Where it runs: `inline` (in the server's event loop), `thread`, or `host` (a separate process)."""
    tools: list[dict[str, Any]]
    """Its actions as OpenAI function tools; empty for a text-only environment."""
    missing: str | None
    """What must be installed before it can be played, or why it cannot be loaded; None if it is ready."""
    open: int
    """Number of open instances."""
    started: int
    """Instances started so far."""
    errors: dict[str, int]
    """Number of failures by error class."""


class EnvironmentList(Message):
    """All environments."""

    data: list[EnvironmentView]
    kinds: list[str]
    """Names that take an argument after a colon, as in `gymnasium:CartPole-v1`."""


class TaskList(Message):
    """Tasks of one split, in the same order on every machine."""

    environment: str
    split: str
    total: int
    """Number of tasks in the whole split."""
    tasks: list[str]


class Sampling(Message):
    """Sampling parameters. Plays use no top_p or top_k, so that their turns are trainable."""

    temperature: float = Field(default=1.0, ge=0.0, le=10.0)
    max_tokens: int = Field(default=64, ge=1, le=100_000)


class PlayRequest(Message):
    """Tasks for the server to play with a policy: `group_size` episodes of each, each at its own pace."""

    environment: str
    tasks: list[str] = Field(min_length=1, max_length=10_000)
    also: dict[str, Annotated[list[str], Field(min_length=1, max_length=10_000)]] = Field(
        default_factory=dict, max_length=32
    )
    """Tasks of further environments, by environment; an evaluation plays a single environment."""
    group_size: int = Field(default=1, ge=1, le=1024)
    horizon: int = Field(ge=1, le=10_000)
    policy: str | None = None
    agent: Literal["policy", "oracle", "random"] = "policy"
    """`oracle` is the environment's own solver; its episodes are demonstrations. `random` knows only the possible
    actions; its episodes are never trained on."""
    tools: bool = False
    """Offer the environment's actions to the policy as tools; an answer without a call still counts as text."""
    sampling: Sampling = Sampling()
    trainable: bool = True
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the environments and of the sampling: each answer has its own, by task, repetition and turn."""
    at_once: int | None = Field(default=None, ge=1, le=10_000)
    """Maximum number of its episodes at once; None leaves it to the server. With 1, on an idle server, greedy answers
    repeat exactly: an engine that computes answers together rounds them differently in other company."""
    purpose: Literal["training", "evaluation", "other"] = "other"
    """An evaluation is never trained on and leaves a row in `evaluation`."""

    @model_validator(mode="after")
    def each_environment_once(self) -> PlayRequest:
        """Reject an environment that appears twice, and an evaluation of several environments."""
        if self.environment in self.also:
            raise ValueError(f"{self.environment} appears in `environment` and in `also`")
        if self.also and self.purpose == "evaluation":
            raise ValueError("an evaluation plays one environment")
        return self

    @property
    def all_tasks(self) -> dict[str, list[str]]:
        """All tasks of the play, by environment."""
        return {self.environment: self.tasks, **self.also}


class PlayedEpisode(Message):
    """One episode of a play."""

    episode_id: str
    task: str
    group: str | None
    status: str
    reward: float | None
    success: bool | None
    """The environment's own verdict; None until it is known, and if the episode failed."""
    turns: int
    policy_version: int | None


class PlayView(Message):
    """Progress of a play."""

    id: str
    state: Literal["running", "done", "failed", "cancelled"]
    error: str | None
    environment: str
    """Name of the environment; several are joined by `+`."""
    horizon: int
    purpose: str
    episodes: int
    finished: int
    succeeded: int
    errors: int
    sampled_tokens: int
    success_rate: float | None
    mean_reward: float | None
    wall_s: float
    results: list[PlayedEpisode]
    """Finished episodes."""


class DemonstrationRequest(Message):
    """A person takes a turn in an episode of an environment."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    """The whole conversation, up to the message that is answered."""
    answer: str = Field(min_length=1, max_length=100_000)
    """The whole answer, in which the environment finds the action."""
    turn: int | None = Field(default=None, ge=0, lt=2**31)
    """Index that the turn must get; with it, an answer that is sent twice is recorded once."""
