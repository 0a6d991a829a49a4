"""The leaderboard: policies of this server and models behind other endpoints, on the same tasks."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from upturn.wire.base import Message
from upturn.wire.plays import PlayRequest, Sampling

Task = Annotated[str, Field(min_length=1, max_length=200)]


class Price(Message):
    """What an endpoint asks, in US dollars per million tokens."""

    prompt: float = Field(ge=0, le=1e6, allow_inf_nan=False)
    completion: float = Field(ge=0, le=1e6, allow_inf_nan=False)


class LeaderboardRequest(Message):
    """A model to measure: a policy, which the server plays itself, or an endpoint, which the caller plays.

    The caller plays an endpoint by opening `repetitions` episodes of each task, with the entry's `group_of` the task as
    their group and `trainable` false, and then ends the entry.
    """

    label: str = Field(min_length=1, max_length=200)
    """Name of the row."""
    policy: str | None = Field(default=None, min_length=1, max_length=200)
    """Policy of this server, such as `policy@3`."""
    endpoint: str | None = Field(default=None, max_length=1000)
    """Base URL of an OpenAI-compatible API, such as `http://10.0.0.5:8000/v1`; the server never calls it."""
    model: str | None = Field(default=None, min_length=1, max_length=200)
    """The endpoint's name of the model."""
    environment: str = Field(min_length=1, max_length=200)
    split: str | None = Field(default=None, max_length=200)
    """Name of the split that the tasks are from."""
    tasks: list[Task] = Field(min_length=1, max_length=10_000)
    repetitions: int = Field(default=1, ge=1, le=1024)
    """Episodes per task."""
    horizon: int = Field(ge=1, le=10_000)
    tools: bool = False
    sampling: Sampling = Sampling()
    seed: int = Field(default=0, ge=0, lt=2**31)
    at_once: int | None = Field(default=None, ge=1, le=10_000)
    """Maximum number of episodes at once."""
    price: Price | None = None

    @field_validator("tasks")
    @classmethod
    def each_once(cls, tasks: list[str]) -> list[str]:
        """Refuse duplicates."""
        if len(set(tasks)) != len(tasks):
            raise ValueError("a task is listed twice; `repetitions` repeats tasks")
        return tasks

    @field_validator("endpoint")
    @classmethod
    def without_secrets(cls, endpoint: str | None) -> str | None:
        """Refuse anything but an address: the leaderboard shows it."""
        if endpoint is not None:
            url = urlsplit(endpoint)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise ValueError("an endpoint is an http or https URL")
            if url.username or url.password or url.query or url.fragment:
                raise ValueError("an endpoint's URL must hold no user, password, query or fragment: it is shown")
        return endpoint

    @model_validator(mode="after")
    def one_model(self) -> LeaderboardRequest:
        """Require either a policy, or an endpoint and its model."""
        if (self.policy is None) == (self.endpoint is None):
            raise ValueError("name either a `policy` or an `endpoint`")
        if (self.endpoint is None) != (self.model is None):
            raise ValueError("an `endpoint` needs a `model`, and only an endpoint has one")
        return self

    def play(self) -> PlayRequest:
        """Return the play that measures a policy."""
        return PlayRequest(
            environment=self.environment,
            tasks=self.tasks,
            group_size=self.repetitions,
            horizon=self.horizon,
            policy=self.policy,
            tools=self.tools,
            sampling=self.sampling,
            trainable=False,
            seed=self.seed,
            at_once=self.at_once,
            purpose="evaluation",
        )


class LeaderboardEnd(Message):
    """The end of an endpoint's entry: all its episodes are played, or they cannot be."""

    state: Literal["done", "failed"] = "done"
    error: str | None = Field(default=None, max_length=2000)
    prompt_tokens: int | None = Field(default=None, ge=0, lt=2**53)
    """As the endpoint counts them; None if it does not say."""
    completion_tokens: int | None = Field(default=None, ge=0, lt=2**53)


class Share(Message):
    """A success rate over tasks, with its 95 % interval."""

    tasks: int
    episodes: int
    """Episodes with a verdict."""
    success: float
    low: float
    high: float


class LeaderboardFigures(Message):
    """What the recorded episodes of an entry show."""

    expected: int
    """Tasks times repetitions."""
    finished: int
    errors: int
    """Finished episodes without a verdict: their environment or the model's server failed."""
    success: Share | None
    """None without a verdict."""
    families: dict[str, Share]
    """By the part of the task's name before its first `/`; empty without families, or with only one."""
    mean_reward: float | None
    mean_turns: float | None


class LeaderboardEntry(Message):
    """A row of the leaderboard."""

    id: str
    state: Literal["running", "done", "failed"]
    error: str | None
    request: LeaderboardRequest
    policy_version: int | None
    """The version that answered, of a policy."""
    play_id: str | None
    """The play that measures a policy."""
    figures: LeaderboardFigures
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    """The tokens at the request's `price`."""
    created_at: float
    ended_at: float | None

    @property
    def tokens(self) -> int | None:
        """Prompt and completion tokens together; None if either is not known."""
        known = self.prompt_tokens is not None and self.completion_tokens is not None
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0) if known else None

    def group_of(self, number: int) -> str:
        """Return the group of the episodes of `request.tasks[number]`, for an endpoint's entry."""
        return f"{self.id}:{number}"


class LeaderboardView(Message):
    """The newest entries, newest first."""

    data: list[LeaderboardEntry]
