"""Batches: what a learner leases, trains on and gives back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from upturn.wire.base import Message
from upturn.wire.plays import PlayView


class BatchRequest(Message):
    """Lease the batch of one learner step. Asking again for the same step gives the same batch."""

    run_id: str
    learner: str
    step: int = Field(ge=0, lt=2**31)
    """Global learner step, from 0."""
    horizon: int = Field(ge=1, le=10_000)
    replay: bool = False
    """A step that is trained already, for a learner that computes it again on its way back from a checkpoint."""
    prepare: bool = False
    """Only begin to play the step's episodes, while the one before it is trained; answered at once."""


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
    """[T] the engine's logprobs at sampling time; 0.0 where the mask is 0 and in demonstrations."""
    temperatures: list[float]
    """[T] sampling temperature; 1.0 where the mask is 0."""
    reward: float
    """Reward of the whole episode."""


class BatchView(Message):
    """A leased batch, or how far the server is in gathering it."""

    id: str
    run_id: str
    step: int
    horizon: int
    state: Literal["gathering", "leased", "trained", "returned"]
    play: PlayView | None
    """The play that fills it, without its results."""
    samples: list[Sample]
    """Empty while gathering."""
    episodes: int
    """Episodes that were considered."""
    groups: int
    groups_without_variance: int
    """Groups skipped because all their rewards are equal."""
    groups_incomplete: int
    """Groups skipped because fewer than two episodes were valid."""
    success_rate: float | None
    mean_reward: float | None
    truncated_share: float | None
    mean_turns: float | None
    errors: int
    """Episodes that failed and are in no sample."""
    played_episodes: int = 0
    """Episodes taken of those that the server played."""
    live_episodes: int = 0
    """Episodes taken of live agents'."""
    by_environment: dict[str, int] = Field(default_factory=dict)
    """Played episodes taken, by environment."""


class TrainedEpisode(Message):
    """Lineage: how one episode entered the training."""

    episode_id: str
    advantage: float
    weight: float
    """Trained tokens."""


class BatchAck(Message):
    """The learner trained on a batch (or gives it back)."""

    learner: str
    state: Literal["trained", "returned"]
    policy_version: int | None = None
    """Version published from it; None where nothing was published."""
    episodes: list[TrainedEpisode] = Field(default_factory=list)
    metrics: dict[str, float] = Field(default_factory=dict)
