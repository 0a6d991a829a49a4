"""The rewards of a batch by group: what every algorithm that compares episodes of one task begins with.

One reward per *episode*: an episode whose history forked has several samples and still counts once.
"""

from __future__ import annotations

from collections.abc import Sequence

from upturn.wire import Sample


def rewards_by_group(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Return each group's rewards by episode; episodes without a group are in none.

    Args:
        samples: [S] the samples of a batch; those of one episode share group and reward.
    """
    groups: dict[str, dict[str, float]] = {}
    for sample in samples:
        if sample.group is not None:
            groups.setdefault(sample.group, {})[sample.episode_id] = sample.reward
    return groups


def comparable_groups(samples: Sequence[Sample]) -> list[dict[str, float]]:
    """Return the rewards of the groups that say something: at least two episodes whose rewards are not all equal."""
    return [rewards for rewards in rewards_by_group(samples).values() if len(set(rewards.values())) > 1]
