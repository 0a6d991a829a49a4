"""What a run trains on: what the server plays for it, and which live episodes it takes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from upturn.wire.base import Message
from upturn.wire.plays import Sampling

Tasks = Annotated[list[str], Field(min_length=1, max_length=10_000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class TaskChoice(Message):
    """The tasks of one environment to choose from: a list of them, or a split."""

    tasks: Tasks | None = None
    split: Name | None = None
    """All tasks of this split, in the environment's order."""
    weight: int = Field(default=1, ge=1, le=100)
    """How many groups it gets for each group of an environment of weight 1."""

    @model_validator(mode="after")
    def named_in_one_way(self) -> TaskChoice:
        """Refuse tasks that are named twice or not at all."""
        if (self.tasks is None) == (self.split is None):
            raise ValueError("name either tasks or a split")
        return self


class PlayPlan(Message):
    """What the server plays to fill each batch of a run: tasks of one environment, or of several.

    `{"environment": "textcraft", "split": "train"}` is short for `{"environments": {"textcraft": {"split": "train"}}}`.
    """

    environment: str | None = None
    tasks: Tasks | None = None
    split: Name | None = None
    environments: dict[Name, TaskChoice] = Field(default_factory=dict, max_length=32)
    """Several environments; their groups stand in the same batches, mixed by weight."""
    curriculum: Literal["uniform", "learnability"] = "uniform"
    """How a step's tasks are chosen: each once before any comes again, or by what the policy can learn from."""
    groups: int = Field(default=8, ge=1, le=1000)
    """Tasks of a step."""
    group_size: int = Field(default=8, ge=1, le=1024)
    agent: Literal["policy", "oracle"] = "policy"
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def says_what_is_played(self) -> PlayPlan:
        """Refuse a plan without an environment, or with two ways of naming them."""
        if (self.environment is None) == (not self.environments):
            raise ValueError("name either an environment or environments")
        named = (self.tasks is not None) + (self.split is not None)
        if named != (self.environment is not None):
            raise ValueError(
                "name either tasks or a split of the environment"
                if self.environment is not None
                else "tasks and split belong to each of the environments"
            )
        return self

    @property
    def choices(self) -> dict[str, TaskChoice]:
        """What is chosen from, by environment."""
        if self.environment is None:
            return self.environments
        return {self.environment: TaskChoice(tasks=self.tasks, split=self.split)}


class LivePlan(Message):
    """Which recorded episodes of live agents a run takes, newest first. The defaults are ours."""

    model_config = ConfigDict(allow_inf_nan=False)

    sources: list[Name] = Field(default=[], max_length=100)
    """Only episodes that one of these has rewarded; empty takes any."""
    keys: list[Name] = Field(default=[], max_length=1000)
    """Only episodes opened with these API keys, by name or id; empty takes any."""
    max_age_s: float | None = Field(default=None, gt=0)
    """Only episodes that ended within so many seconds."""
    min_rewards: int = Field(default=0, ge=0, le=10_000)
    """Least rewards from outside, of `sources` where they are named; an environment's own are not counted."""
    limit: int = Field(default=64, ge=1, le=1000)
    """Most live episodes in a batch."""
    share: float = Field(default=0.5, gt=0, lt=1)
    """Most live episodes as a share of a batch that has played ones too."""
