"""The figures that a step reports: sums over rows, lineage, and how much the sampled text repeats itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from learner.guards import Mismatch
from learner.packing import trained_positions
from upturn.wire import Sample, TrainedEpisode

_REPEATED_TOKENS = 4
"""Length of the token sequences that are compared."""


@dataclass
class Sums:
    """Sums over the rows of a minibatch."""

    units: float = 0.0
    """Divisor of gradients and losses."""
    tokens: int = 0
    """Trained tokens, without omitted ones."""
    nonfinite: int = 0
    """Tokens omitted because a logprob was not finite."""
    losses: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums in the loss's units, by metric name."""
    per_token: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums over tokens, by metric name."""

    @property
    def mismatch(self) -> Mismatch:
        """The mismatch of engine and learner; without tokens if the loss is imitation."""
        if "mismatch_kl" not in self.per_token:
            return Mismatch(0.0, 0.0, 0)
        return Mismatch(self.per_token["mismatch_kl"], self.per_token["mismatch_outliers"], self.tokens)

    @classmethod
    def added(cls, parts: Sequence[Sums]) -> Sums:
        """Return the sums over all processes."""
        total = cls()
        for part in parts:
            total.units += part.units
            total.tokens += part.tokens
            total.nonfinite += part.nonfinite
            for sums, addends in ((total.losses, part.losses), (total.per_token, part.per_token)):
                for name, value in addends.items():
                    sums[name] += value
        return total


def lineage(samples: Sequence[Sample], advantages: Mapping[str, float]) -> list[TrainedEpisode]:
    """Return each trained episode with its advantage and its number of trained tokens over all branches.

    Args:
        samples: [S] the trained samples.
        advantages: by episode id; the mean over the episode's tokens if they differ.
    """
    tokens: Counter[str] = Counter()
    for sample in samples:
        tokens[sample.episode_id] += len(trained_positions(sample))
    return [
        TrainedEpisode(episode_id=episode, advantage=advantages[episode], weight=float(count))
        for episode, count in tokens.items()
    ]


def repetition(samples: Sequence[Sample]) -> float:
    """Return the share of sampled 4-grams that occurred earlier in the same turn; 0 if no turn has four tokens.

    It approaches 1 when a policy collapses into a loop. The same action in two turns does not count.
    """
    total, distinct = 0, 0
    for sample in samples:
        for turn in _turns(sample):
            grams = [tuple(turn[i : i + _REPEATED_TOKENS]) for i in range(len(turn) - _REPEATED_TOKENS + 1)]
            total, distinct = total + len(grams), distinct + len(set(grams))
    return 1 - distinct / total if total else 0.0


def _turns(sample: Sample) -> list[list[int]]:
    """Return the token ids of each contiguous sequence of trained tokens in a sample."""
    turns: list[list[int]] = []
    for i, (token, trained) in enumerate(zip(sample.token_ids, sample.loss_mask, strict=True)):
        if trained and (i == 0 or not sample.loss_mask[i - 1]):
            turns.append([])
        if trained:
            turns[-1].append(token)
    return turns
