"""Samples and models for the learner's tests, with a test of the samples themselves."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from learner.model.load import load_policy
from learner.model.policy import Policy
from tests.support.tiny_model import make_tiny_model
from upturn.wire import Guards, RunConfig, Sample


def unguarded(**values: object) -> RunConfig:
    """Return the config of a one-step run without a mismatch guard, so that engine logprobs may be made up."""
    return RunConfig.model_validate({"steps": 1, "guards": Guards(mismatch_kl=None), **values})


def sample(
    ids: list[int],
    mask: list[int],
    *,
    episode: str = "e",
    group: str | None = "g",
    reward: float = 0.0,
    logprobs: list[float] | None = None,
    temperature: float = 1.0,
) -> Sample:
    """Return a sample; unless given, engine logprobs are -5 where the mask is 1."""
    return Sample(
        episode_id=episode,
        group=group,
        token_ids=ids,
        loss_mask=mask,
        logprobs=logprobs or [-5.0 * m for m in mask],
        temperatures=[temperature if m else 1.0 for m in mask],
        reward=reward,
    )


def random_samples(seed: int = 0, groups: int = 3, size: int = 4, vocabulary: int = 250) -> list[Sample]:
    """Return groups of two-turn episodes with a shared prompt; the last episode of each group has a forked history."""
    rng = random.Random(seed)

    def tokens(n: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(n)]

    found = []
    for g in range(groups):
        prompt = [5, 6, 7, *tokens(rng.randrange(8, 20))]
        for e in range(size):
            first, observation, second = tokens(rng.randrange(1, 6)), tokens(4), tokens(rng.randrange(1, 6))
            name, reward = f"g{g}e{e}", float(e % 2)
            ids = prompt + first + observation + second
            mask = [0] * len(prompt) + [1] * len(first) + [0] * 4 + [1] * len(second)
            found.append(sample(ids, mask, episode=name, group=f"g{g}", reward=reward))
            if (
                e == size - 1
            ):  # a branch with the same first answer, which the sample above trains, and another second one
                other = tokens(3)
                ids = prompt + first + tokens(2) + other
                mask = [0] * (len(prompt) + len(first) + 2) + [1] * 3
                found.append(sample(ids, mask, episode=name, group=f"g{g}", reward=reward, temperature=0.7))
    rng.shuffle(found)
    return found


def tiny_policy(directory: Path, config: RunConfig | None = None, seed: int = 0) -> Policy:
    """Return a float32 policy with a new tiny model."""
    torch.set_num_threads(1)  # two threads wait for each other on a busy machine
    config = config or RunConfig(steps=1)
    return load_policy(make_tiny_model(directory / f"tiny-{seed}", seed), None, config, torch.device("cpu"))


def plain_logprobs(policy: Policy, one: Sample) -> torch.Tensor:
    """Return [m] the logprobs of a sample's trained tokens from an ordinary forward pass over that sample."""
    ids = torch.tensor([one.token_ids])
    logits = policy.model(input_ids=ids).logits[0].float()
    trained = torch.tensor([i for i, m in enumerate(one.loss_mask) if m])
    scaled = logits[trained - 1] / torch.tensor(one.temperatures)[trained, None]
    return scaled.log_softmax(-1).gather(-1, ids[0, trained, None])[:, 0]


def test_random_samples_have_shared_prompts_and_forked_episodes():
    samples = random_samples(groups=2, size=3)
    assert len({s.group for s in samples}) == 2
    assert len({s.episode_id for s in samples}) == 6
    assert len(samples) == 8
    for group in ("g0", "g1"):
        assert len({tuple(s.token_ids[:8]) for s in samples if s.group == group}) == 1
