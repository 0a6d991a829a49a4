"""Every algorithm reaches the known optimum of a bandit and of a multi-turn chain from random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from learner.model.policy import Policy
from learner.step import Trainer
from upturn.wire import OptimizerConfig, RunConfig, Sample

VOCABULARY = 12
"""Tokens 0 to 4 are states, 5 to 11 are actions, one of them right; choosing a state does nothing."""
RIGHT = 7
GROUPS, SIZE = 6, 8

ALGORITHMS = {
    "grpo": {},
    "dr_grpo": {},
    "rloo": {},
    "reinforce_pp": {},
    "reinforce_pp_baseline": {},
    "ppo": {"ppo": {"value_lr": 3e-2}, "minibatches": 2},
    "dpo": {},
    "agent_evol": {},
    "sft": {},
    "grpo with dapo's clip and two minibatches": {"algorithm": "grpo", "clip_high": 0.28, "minibatches": 2},
    "grpo with cispo's ratio": {"algorithm": "grpo", "policy_loss": "cispo", "clip_high": 4.0, "minibatches": 2},
    "grpo with gspo's ratio": {
        "algorithm": "grpo",
        "policy_loss": "gspo",
        "minibatches": 2,
        "loss_normalization": "sample",
    },
    "reinforce_pp with the kl in the reward": {
        "algorithm": "reinforce_pp",
        "kl_coef": 0.01,
        "kl_in": "reward",
        "kl_estimator": "k1",
        "reference_reset_every": 10,
    },
    "rloo with discounted turns": {"algorithm": "rloo", "turn_discount": 0.9},
}


def random_policy() -> Policy:
    """Return a Llama of one layer with random weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return Policy(LlamaForCausalLM(config).train(), Path(), torch.float32)


def played(policy: Policy, turns: int, episodes: int, step: int, expert: bool = False) -> list[Sample]:
    """Return episodes of a chain: the right action moves to the next state, any other stays; one turn is a bandit.

    The reward is the reached state as a share of all turns. The episode ends with the last state, an observation.
    """
    generator = torch.Generator().manual_seed(step)
    ids = torch.zeros(episodes, 1, dtype=torch.long)
    state, logprobs = torch.zeros(episodes, dtype=torch.long), []
    for _ in range(turns):
        with torch.no_grad():
            scores = policy.model(input_ids=ids).logits[:, -1].float().log_softmax(-1)
        action = torch.multinomial(scores.exp(), 1, generator=generator)[:, 0]
        if expert:
            action = torch.full_like(action, RIGHT)
        logprobs.append(torch.zeros(episodes) if expert else scores.gather(-1, action[:, None])[:, 0])
        state = state + (action == RIGHT)
        ids = torch.cat([ids, action[:, None], state[:, None]], dim=1)
    return [
        Sample(
            episode_id=f"{step}-{i}",
            group=None if expert else f"{step}-{i // SIZE}",
            token_ids=ids[i].tolist(),
            loss_mask=[0] + [1, 0] * turns,
            logprobs=[0.0] + [value for one in logprobs for value in (float(one[i]), 0.0)],
            temperatures=[1.0] * (1 + 2 * turns),
            reward=float(state[i]) / turns,
        )
        for i in range(episodes)
    ]


def mean_reward(samples: list[Sample]) -> float:
    return sum(s.reward for s in samples) / len(samples)


@pytest.mark.parametrize("turns", [1, 3], ids=["bandit", "chain"])
@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_training_from_random_weights_reaches_the_optimum(name, turns):
    fields = {"algorithm": name, **ALGORITHMS[name]}
    config = RunConfig.model_validate({"steps": 100, "optimizer": OptimizerConfig(lr=1e-2), **fields})
    policy = random_policy()
    trainer = Trainer(policy, config)
    selects = config.traits.episodes
    assert mean_reward(played(policy, turns, 256, step=10_000)) < 0.3
    for step in range(60):
        samples = played(policy, turns, GROUPS * SIZE, step, expert=selects == "successes")
        if selects == "best_and_worst":
            samples = best_and_worst(samples)
        trainer.step(samples, step)
    assert mean_reward(played(policy, turns, 256, step=10_001)) > 0.95


def best_and_worst(samples: list[Sample]) -> list[Sample]:
    """Return the best and the worst sample of each group, as the server selects them for DPO."""
    found = []
    for group in sorted({s.group for s in samples}):
        members = sorted((s for s in samples if s.group == group), key=lambda s: s.reward)
        if members[0].reward < members[-1].reward:
            found += [members[0], members[-1]]
    return found
