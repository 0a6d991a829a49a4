"""The rewards of a batch by group, for algorithms that compare the episodes of a task.

One reward per *episode*: an episode with a forked history has several samples and still counts once.
"""

from __future__ import annotations

from collections.abc import Sequence

from upturn.wire import Sample


def rewards_by_group(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Return each group's rewards by episode id; episodes without a group are left out.

    Args:
        samples: [S] the samples of a batch; samples of one episode share group and reward.
    """
    groups: dict[str, dict[str, float]] = {}
    for sample in samples:
        if sample.group is not None:
            groups.setdefault(sample.group, {})[sample.episode_id] = sample.reward
    return groups


def comparable_groups(samples: Sequence[Sample]) -> list[dict[str, float]]:
    """Return the rewards of each group that has at least two episodes and not only equal rewards."""
    return [rewards for rewards in rewards_by_group(samples).values() if len(set(rewards.values())) > 1]
