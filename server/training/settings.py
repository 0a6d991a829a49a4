"""Settings of the learner, the promotion gate, the live-reward watch, and the canary."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from server.section import Section, VariableName


class LearnerSettings(Section):
    """The learner process."""

    start: bool = True
    """Start a learner on this machine when a run is due. False: a learner elsewhere does (`python -m learner run`)."""
    processes: int = Field(default=1, ge=1)
    """Processes that share the model and each batch, one per GPU."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per process. Default: chosen by torch."""
    nice: int = Field(default=0, ge=0, le=19)
    """Niceness on CPU cores shared with serving: 0 shares equally, 19 uses idle CPU."""
    gpu: int | None = Field(default=None, ge=0)
    """The learner's GPU. Default: a second GPU if there is one, otherwise the GPU of vLLM."""
    gpu_memory: float = Field(default=0.45, gt=0, lt=1)
    """Fraction of a shared GPU's memory the learner may use. Beyond it the learner fails, not vLLM."""
    lease_s: float = Field(default=60.0, gt=1)
    """Seconds without a heartbeat after which a learner loses its run."""
    restarts: int = Field(default=3, ge=0)
    """Maximum restarts of a learner that died, per run."""
    env: list[VariableName] = []
    """Environment variables of the server that the learner gets in addition to a fixed list without secrets."""
    arguments: list[str] = []
    """Additional learner command-line arguments (`python -m learner run --help`), such as
    `["--activation-checkpointing"]`."""


class GateSettings(Section):
    """When a run's candidate becomes the champion. Defaults chosen by this project."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the two-sided interval of the mean gain in success over all environments. Half of the rest, 2.5 %,
    is the level of a decision: the probability of promoting a candidate that is not better."""
    max_false_promotions: float | None = Field(default=0.05, gt=0, lt=1)
    """Maximum probability of any false promotion among all decisions up to the next promotion. The first decision has
    the level of `confidence`, each later one `later_share` of what is left. None: no limit, each has that level."""
    later_share: float = Field(default=0.03, gt=0, lt=1)
    """Share of what is left of `max_false_promotions` that each decision after the first spends."""
    min_gain: float = Field(default=0.0, ge=-1, lt=1)
    """The mean gain must be above this, by the test and at the level of the decision."""
    margin: float = Field(default=0.05, ge=0, le=1)
    """Maximum fall of the success rate in any single environment."""
    guard_margin: float = Field(default=0.1, gt=0, le=1)
    """Maximum fall of the success rate in a guard environment, at `guard_confidence`."""
    guard_confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence of the two-sided interval of the gain in a guard environment. Its lower bound must be above
    `-guard_margin`."""
    revert_confidence: float = Field(default=0.999, gt=0.5, lt=1)
    """Confidence of the two-sided interval of the mean gain that must lie below 0 for a campaign to go back to the
    state behind the champion. High, since it is asked every night."""
    min_tasks: int = Field(default=10, ge=2)
    """Minimum tasks per environment with a verdict on both versions. With fewer, an interval means little."""
    max_errors: float = Field(default=0.1, ge=0, lt=1)
    """Maximum share of a version's episodes in an environment without a verdict. With more, nothing is
    decided, which rejects the candidate."""
    max_invalid_rise: float = Field(default=0.05, ge=0, le=1)
    """Maximum rise of the share of steps that could not be understood, in any environment."""
    max_tool_error_rise: float | None = Field(default=0.05, ge=0, le=1)
    """Maximum rise of the share of tool calls that could not be parsed, in any environment. None: unlimited."""
    max_latency_ratio: float | None = Field(default=None, gt=0)
    """Maximum ratio of the candidate's mean answer time to the champion's, in any environment. None: unlimited."""
    max_kl: float | None = Field(default=None, gt=0)
    """Maximum of the run's mean `reference_kl`, in nats per token. None: unlimited."""
    min_entropy: float | None = Field(default=None, ge=0)
    """Minimum of the run's mean `entropy`, in nats per token. None: unlimited."""
    audit_level: float = Field(default=0.05, ge=0, lt=0.5)
    """Maximum probability that the audit objects to any feature whose rise is tolerated, or is not paid for. 0: no
    audit."""
    audit_no_action: float = Field(default=0.1, ge=0, le=1)
    """Tolerated rise of the share of turns without an action that the environment understands. 1: not audited, as
    for each share below."""
    audit_broken_calls: float = Field(default=0.1, ge=0, le=1)
    """Tolerated rise of the share of turns with a broken tool call."""
    audit_avoided_calls: float = Field(default=0.2, ge=0, le=1)
    """Tolerated rise of the share of turns without a tool call where tools are offered. The last turn of an episode
    that called one does not count."""
    audit_questions: float = Field(default=0.1, ge=0, le=1)
    """Tolerated rise of the share of turns that ask a question instead of acting. 1 where questions are actions."""
    audit_repetition: float = Field(default=0.15, ge=0, le=1)
    """Tolerated rise of the share of repeated text within answers, and of answers that repeat the one before."""
    audit_paid_failures: float = Field(default=0.1, ge=0, le=1)
    """Tolerated rise of the share of episodes that fail and earn as much as a typical success."""
    audit_answer_tokens: float = Field(default=0.3, ge=0, le=100)
    """Tolerated relative rise of the tokens per turn, on the same tasks with the same verdict, if longer answers earn
    more there. 100: not audited."""
    audit_turns: float = Field(default=0.3, ge=0, le=100)
    """Tolerated relative rise of the turns of solved episodes, on the same tasks, if more turns earn more there. 100:
    not audited."""
    audit_component: float = Field(default=0.2, ge=0, le=1)
    """Tolerated rise of a component's share of an episode's reward, on the same tasks with the same verdict, if the
    component pays more there."""
    audit_beyond_success: float = Field(default=0.25, ge=0, le=1)
    """Share of the reward's rise that must come without a change of the verdict before the audit objects to longer
    answers, more turns, or a component's share."""


class WatchSettings(Section):
    """When a fall of live rewards rolls a new champion back. Defaults chosen by this project."""

    enabled: bool = True
    """Compare the live rewards of a promoted version with the previous champion's, and roll it back if it is worse.
    Without live rewards nothing happens."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Maximum false-rollback probability, however often rewards are checked."""
    window: int = Field(default=400, ge=2, le=2000)
    """Rewarded episodes of each version to compare: the newest before the promotion, the first since."""
    maturity_h: float | None = Field(default=None, gt=0, le=720)
    """Age in hours at which an episode's reward is read; later rewards do not count. Choose it longer than good and bad
    rewards take. Default: twice the delay within which 95 % of the earlier good and bad rewards were known, from 5
    minutes to 8 hours; 4 hours if that is unknown."""
    min_episodes: int = Field(default=20, ge=1, le=2000)
    """Minimum rewarded episodes of each version before a decision."""
    min_drop: float = Field(default=0.05, ge=0)
    """Tolerated fall of the mean reward."""
    low: float = -1.0
    """Lowest possible reward. Rewards below are clipped to it."""
    high: float = 1.0
    """Highest possible reward. Rewards above are clipped to it."""

    @model_validator(mode="after")
    def it_can_decide(self) -> WatchSettings:
        """Refuse an empty range of rewards, or a minimum beyond the window: they could never decide."""
        if not self.low < self.high or self.min_drop >= self.high - self.low:
            raise ValueError("watch.high must exceed watch.low by more than watch.min_drop")
        if self.min_episodes > self.window:
            raise ValueError("watch.min_episodes must not exceed watch.window")
        return self


class CanarySettings(Section):
    """The canary: a share of live traffic gets a candidate that the gate approved, before it becomes the champion."""

    share: float = Field(default=0.0, ge=0, lt=1)
    """Share of new live episodes that get the candidate. 0 promotes at once. Needs adapters."""
    by: Literal["episode", "key"] = "episode"
    """Draw each episode independently, or each API key with all its episodes, which are then compared with earlier ones
    of the same key."""
    min_episodes: int = Field(default=300, ge=1, le=2000)
    """Rewarded episodes of each version after which a candidate that is not worse is promoted."""
    max_hours: float = Field(default=72.0, gt=0)
    """Hours after which a candidate that is not known to be worse is promoted with fewer episodes."""
