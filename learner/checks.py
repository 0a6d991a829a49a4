"""Checks of a batch before any weight changes.

Each error is one line that says what to do. The run then ends as failed with that line as its reason.
`model/fit.py` checks the model's directory and the machine's memory in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from upturn.wire import BatchView, RunConfig, Sample


class BadInput(ValueError):
    """The run cannot be trained on its input; the message says what to do."""


class BadBatch(BadInput):
    """A batch is malformed."""


def check_batch(samples: Sequence[Sample], config: RunConfig, vocabulary: int) -> None:
    """Refuse a malformed batch.

    Args:
        samples: [S] the batch.
        config: the run's config.
        vocabulary: number of token ids that the model knows.

    Raises:
        BadBatch: lists differ in length, a reward is not finite, or a token id is outside the vocabulary.
        BadInput: the algorithm needs groups and no episode has one.
    """
    for s in samples:
        lengths = [len(s.token_ids), len(s.loss_mask), len(s.logprobs), len(s.temperatures)]
        if len(set(lengths)) != 1:
            raise BadBatch(
                f"the lists of a sample of episode {s.episode_id} differ in length: {lengths} token ids, "
                "mask, logprobs and temperatures; erase the episode and lease the batch again"
            )
        if not math.isfinite(s.reward):
            raise BadBatch(f"the reward of episode {s.episode_id} is {s.reward}: correct it or erase the episode")
        if s.token_ids and not 0 <= min(s.token_ids) <= max(s.token_ids) < vocabulary:
            raise BadBatch(
                f"episode {s.episode_id} has token ids {min(s.token_ids)} to {max(s.token_ids)}, but the "
                f"model knows 0 to {vocabulary - 1}: engine and learner have different tokenizers, so give "
                "both the same model"
            )
        if any(m and not t > 0 for m, t in zip(s.loss_mask, s.temperatures, strict=True)):
            raise BadBatch(
                f"episode {s.episode_id} trains tokens that were sampled at temperature 0: sample at a "
                "temperature above 0"
            )
    if samples and config.traits.groups == "required" and all(s.group is None for s in samples):
        raise BadInput(
            f"{config.algorithm} compares the episodes of a group, but no episode belongs to one: name a group "
            "when episodes are opened, or use reinforce_pp or ppo"
        )


def check_groups(batch: BatchView, config: RunConfig) -> None:
    """Refuse a live run that could never train a step because no episode belongs to a group.

    Raises:
        BadInput: the algorithm compares episodes, and no recorded episode has a group.
    """
    grouped = batch.groups + batch.groups_without_variance + batch.groups_too_large + batch.live_too_few
    required = config.traits.groups == "required"
    alone = batch.live_ungrouped == batch.groups_incomplete > 1
    if required and config.play is None and alone and not grouped:
        raise BadInput(
            f"{config.algorithm} compares the episodes of a group, but each of the {batch.episodes} "
            "recorded episodes is alone in its group: name a group when episodes are opened, or use "
            "reinforce_pp or ppo"
        )
