"""The training data of a run: the tasks that the server plays for it, and the live episodes that it selects."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from upturn.wire.base import Message
from upturn.wire.plays import Sampling

Tasks = Annotated[list[str], Field(min_length=1, max_length=10_000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class TaskChoice(Message):
    """The tasks of one environment to choose from: a list or a split."""

    tasks: Tasks | None = None
    split: Name | None = None
    """All tasks of this split, in the environment's order."""
    weight: int = Field(default=1, ge=1, le=100)
    """Number of groups for each group of an environment of weight 1."""

    @model_validator(mode="after")
    def named_in_one_way(self) -> TaskChoice:
        """Require either tasks or a split."""
        if (self.tasks is None) == (self.split is None):
            raise ValueError("name either tasks or a split")
        return self


class PlayPlan(Message):
    """What the server plays for each batch of a run: tasks of one environment or of several.

    `{"environment": "textcraft", "split": "train"}` is short for `{"environments": {"textcraft": {"split": "train"}}}`.
    Defaults without a source are chosen by this project.
    """

    environment: str | None = None
    tasks: Tasks | None = None
    split: Name | None = None
    environments: dict[Name, TaskChoice] = Field(default_factory=dict, max_length=32)
    """Several environments; each batch mixes their groups by weight."""
    curriculum: Literal["uniform", "learnability"] = "uniform"
    """How a step's tasks are chosen: `uniform` plays each once before repeating any, `learnability` prefers tasks that
    the policy sometimes solves."""
    groups: int = Field(default=8, ge=1, le=1000)
    """Tasks per learner step (default chosen by this project)."""
    group_size: int = Field(default=8, ge=1, le=1024)
    """Episodes per task (default from the paper, arXiv 2509.08755)."""
    resample: float = Field(default=0.0, ge=0, le=10)
    """Maximum number of further groups per step, as a factor of `groups`: other tasks are played in place of groups
    whose episodes all score alike (dynamic sampling, DAPO, arXiv 2503.14476, section 3.2). 0 is off, the default: a
    further group costs as much as any other, so it pays only where a step's own cost is large. Ignored by algorithms
    that do not compare groups."""
    agent: Literal["policy", "oracle"] = "policy"
    """`oracle` plays the environment's own solver, which gives demonstrations."""
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def says_what_is_played(self) -> PlayPlan:
        """Require environments, named in exactly one way."""
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
        """The tasks to choose from, by environment."""
        if self.environment is None:
            return self.environments
        return {self.environment: TaskChoice(tasks=self.tasks, split=self.split)}


class LivePlan(Message):
    """Which recorded episodes of live agents a run selects, newest first. Defaults chosen by this project."""

    model_config = ConfigDict(allow_inf_nan=False)

    sources: list[Name] = Field(default=[], max_length=100)
    """Only episodes rewarded by one of these sources; empty allows any."""
    keys: list[Name] = Field(default=[], max_length=1000)
    """Only episodes opened with these API keys, by name or id; empty allows any."""
    max_age_s: float | None = Field(default=None, gt=0)
    """Only episodes that ended at most this many seconds ago."""
    min_rewards: int = Field(default=0, ge=0, le=10_000)
    """Minimum number of external rewards that count, only of `sources` if given; an environment's own rewards do not
    count."""
    unused_only: bool = True
    """Only episodes that no finished or unfinished run has used. An episode is used once a learner step has trained on
    it; a run that fails or is cancelled uses none."""
    max_reuse: int | None = Field(default=None, ge=1, le=10_000)
    """Maximum number of runs that use an episode, with `unused_only` off; None is no limit."""
    min_episodes: int = Field(default=8, ge=1, le=1000)
    """Minimum number of live episodes of a batch without a play, at most `limit`: a step with fewer trains nothing, and
    leaves them to a later step or run. The default is the size of a played group."""
    limit: int = Field(default=64, ge=1, le=1000)
    """Maximum number of live episodes in a batch."""
    share: float = Field(default=0.5, gt=0, lt=1)
    """Maximum share of live episodes in a batch that also has played ones."""
    group_size: int | None = Field(default=None, ge=2, le=1000)
    """Number of usable episodes with which a group is complete although more of its episodes are open; None waits until
    all of them have ended."""
    group_wait_s: float | None = Field(default=None, gt=0)
    """Seconds after the opening of a group's first episode from which it is complete although episodes are open."""

    @model_validator(mode="after")
    def reuse_is_allowed(self) -> LivePlan:
        """Refuse a number of uses for episodes that are used once."""
        if self.unused_only and self.max_reuse is not None and self.max_reuse > 1:
            raise ValueError("max_reuse above 1 needs unused_only = false: otherwise each episode is used once")
        return self

    @property
    def most_uses(self) -> int | None:
        """Maximum number of runs that use an episode; None is no limit."""
        return 1 if self.unused_only else self.max_reuse

    @property
    def fewest(self) -> int:
        """Minimum number of live episodes of a batch without a play."""
        return min(self.min_episodes, self.limit)
