"""Batches: what a learner leases, trains on, and acknowledges or returns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upturn.wire.base import Message
from upturn.wire.plays import PlayView


class BatchRequest(Message):
    """Lease the batch of one learner step. Repeated requests for a step return the same batch."""

    run_id: str
    learner: str
    step: int = Field(ge=0, lt=2**31)
    """Global learner step, from 0."""
    horizon: int = Field(ge=1, le=10_000)
    replay: bool = False
    """Return the batch of a trained step, for a learner that resumes from a checkpoint and repeats the step."""
    prepare: bool = False
    """Only start playing the step's episodes, while the previous step trains; returns at once."""


class Sample(Message):
    """One root-to-leaf token sequence with a loss mask; all four lists share the length T.

    A two-turn episode with prompt P, answers A and observations O gives
    `token_ids = P0 P1 A0 A1 O0 A2`, `loss_mask = 0 0 1 1 0 1`, `logprobs = 0 0 a0 a1 0 a2`.
    """

    episode_id: str
    group: str | None
    token_ids: list[int]
    """[T]"""
    loss_mask: list[int]
    """[T] 1 where this sample trains the token; every sampled token is trained in exactly one sample."""
    logprobs: list[float]
    """[T] the engine's logprobs at sampling time; 0.0 where the mask is 0, and in demonstrations."""
    temperatures: list[float]
    """[T] sampling temperature; 1.0 where the mask is 0."""
    reward: float
    """Reward of the whole episode."""


class BatchView(Message):
    """A leased batch, or the progress of gathering it."""

    id: str
    run_id: str
    step: int
    horizon: int
    state: Literal["gathering", "leased", "trained", "returned"]
    play: PlayView | None
    """The play for this batch, without its results."""
    samples: list[Sample]
    """Empty while gathering."""
    episodes: int
    """Episodes considered."""
    groups: int
    groups_without_variance: int
    """Groups skipped because all their rewards are equal."""
    groups_incomplete: int
    """Groups skipped because they had fewer than two valid episodes, or, among live ones, because some are open."""
    success_rate: float | None
    mean_reward: float | None
    truncated_share: float | None
    mean_turns: float | None
    errors: int
    """Episodes that failed and were left out."""
    played_episodes: int = 0
    """Episodes taken from the play."""
    live_episodes: int = 0
    """Episodes taken from live agents."""
    episodes_with_equal_rewards: int = 0
    """Episodes taken, if all their rewards are equal; otherwise 0."""
    groups_played: int = 0
    """Groups of the batch's plays."""
    groups_replaced: int = 0
    """Of these, groups played in place of groups without variance."""
    groups_too_large: int = 0
    """Live groups skipped because they have more episodes than `live.limit`."""
    live_ungrouped: int = 0
    """Live episodes without a group, which an algorithm that compares the episodes of a group cannot use."""
    live_too_few: int = 0
    """Live episodes that the batch could have taken, but fewer than `live.min_episodes`."""
    live_used: int = 0
    """Of the live episodes that ended last, those that a run has already used. This count and the following ones are 0
    unless a batch without a play takes nothing."""
    live_unrewarded: int = 0
    """Of these, episodes without a reward that counts."""
    live_excluded: int = 0
    """Of these, episodes that `live` leaves out by source, number of rewards, key, or age."""
    live_stale: int = 0
    """Of these, episodes older than `max_staleness`."""
    by_environment: dict[str, int] = Field(default_factory=dict)
    """Episodes taken from the play, by environment."""


class TrainedEpisode(Message):
    """Lineage: how one episode entered training."""

    episode_id: str
    advantage: float
    """Mean over its trained tokens."""
    weight: float
    """Number of trained tokens."""


class BatchAck(Message):
    """A learner trained on a batch, or returns it."""

    learner: str
    state: Literal["trained", "returned"]
    policy_version: int | None = None
    """Version published from the batch; None if none was."""
    episodes: list[TrainedEpisode] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)
