"""The learner against a dense implementation of its equations: one ordinary forward pass and log-softmax per sample."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from learner.algorithms.registry import algorithm_of
from learner.checks import BadInput
from learner.minibatch import Minibatch
from learner.model.acceleration import accelerate
from learner.model.reference import Reference
from learner.packing import RowLimits, trained_positions
from learner.settings import LearnerSettings
from learner.step import Trainer
from tests.unit.learner.equations.test_learner_oracle import assert_same, near, ours
from tests.unit.learner.test_learner_samples import random_samples, tiny_policy, unguarded
from upturn.wire import ALGORITHMS, RunConfig

PAPER = {"entropy_coef": 0.3, "kl_coef": 0.2}
POLICY_GRADIENT = [name for name, traits in ALGORITHMS.items() if not traits.off_policy]
IMITATION = [name for name, traits in ALGORITHMS.items() if traits.off_policy]


def dense(policy, one, temperature=None):
    """Return [m, V] log-softmax of what predicts a sample's trained tokens; at their own temperatures by default."""
    positions = torch.tensor(trained_positions(one))
    logits = policy.model(input_ids=torch.tensor([one.token_ids])).logits[0, positions - 1]
    return (logits / (temperature or torch.tensor(one.temperatures)[positions, None])).log_softmax(-1)


def chosen(policy, one, temperature=None):
    ids = torch.tensor(one.token_ids)[trained_positions(one)]
    return dense(policy, one, temperature).gather(-1, ids[:, None])[:, 0]


def made(directory, config):
    """Return a policy, samples at several temperatures, and old, engine and reference logprobs near the policy's."""
    policy, rng = tiny_policy(directory, config), torch.Generator().manual_seed(1)
    samples, passes = [], []
    for i, one in enumerate(random_samples(3)):
        one = one.model_copy(update={"temperatures": [(0.6, 1.0, 1.7)[i % 3] if m else 1.0 for m in one.loss_mask]})
        with torch.no_grad():
            now = chosen(policy, one)
        with_engine, one_pass = near(one, now, rng)
        samples.append(with_engine)
        passes.append(one_pass)
    return policy, samples, passes


def policy_gradient(policy, samples, passes, config):
    """Return the loss of the `ppo` form with its KL and entropy terms, straight from the equations."""
    advantages = algorithm_of(config).credit(samples, passes).advantages
    total, tokens = torch.zeros(()), sum(len(trained_positions(s)) for s in samples)
    for one, seen, advantage in zip(samples, passes, advantages, strict=True):
        logprobs = dense(policy, one)
        now = logprobs.gather(-1, torch.tensor(one.token_ids)[trained_positions(one)][:, None])[:, 0]
        ratio = (now - seen.old).exp()
        tis = (seen.old - torch.tensor(one.logprobs)[trained_positions(one)]).exp().clamp(max=2.0)
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        gap = seen.reference - now
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        terms = -tis * gain + config.kl_coef * (gap.exp() - gap - 1) - config.entropy_coef * entropy
        total = (
            total
            + {
                "token": terms.sum() / tokens,
                "sample": terms.mean() / len(samples),
                "constant": terms.sum() / config.constant_tokens / len(samples),
            }[config.loss_normalization]
        )
    return total


@pytest.mark.parametrize("rows", [4096, 30])
@pytest.mark.parametrize(
    "fields",
    [
        {"entropy_coef": 0.3},
        {**PAPER, "loss_normalization": "sample"},
        {**PAPER, "loss_normalization": "constant", "constant_tokens": 7, "algorithm": "dr_grpo"},
        {"entropy_coef": 0.3, "algorithm": "reinforce_pp"},
        {"entropy_coef": 0.3, "kind": "adapter", "lora_rank": 4},
    ],
    ids=str,
)
def test_loss_and_gradient_with_an_entropy_bonus_equal_the_dense_equations(tmp_path, fields, rows, monkeypatch):
    monkeypatch.setattr("learner.model.chosen_logprobs.LOGITS_AT_ONCE", 3000)  # a few tokens at a time
    config = unguarded(sequence_cap=1e6, **fields)
    policy, samples, passes = made(tmp_path, config)
    accelerate(policy, LearnerSettings(server="", learner="-", activation_checkpointing=rows == 30))
    loss, gradients = ours(policy, samples, passes, config, rows)
    policy.model.zero_grad(set_to_none=True)
    expected = policy_gradient(policy, samples, passes, config)
    expected.backward()
    assert_same(policy, expected.detach(), loss, gradients)


@pytest.mark.parametrize("algorithm", [name for name in IMITATION if name != "dpo"])
def test_imitation_reads_logprobs_and_entropy_at_temperature_1_whatever_sampled_the_tokens(tmp_path, algorithm):
    config = unguarded(algorithm=algorithm)
    policy, samples, _ = made(tmp_path, config)
    samples = [s for s in samples if s.reward > 0]
    weights = algorithm_of(config).credit(samples, None).advantages
    loss, gradients = ours(policy, samples, None, config, 60)
    policy.model.zero_grad(set_to_none=True)
    tokens = sum(len(trained_positions(s)) for s in samples)
    expected = -sum((w * chosen(policy, s, 1.0)).sum() for w, s in zip(weights, samples, strict=True)) / tokens
    expected.backward()
    assert_same(policy, expected.detach(), loss, gradients)
    with torch.no_grad():
        entropy = sum(float(-(p.exp() * p).sum()) for p in (dense(policy, s, 1.0) for s in samples)) / tokens
    policy.model.zero_grad(set_to_none=True)
    metrics = Trainer(policy, config).step(samples, 0).metrics
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-5)
    assert metrics["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_dpo_compares_policy_and_reference_at_temperature_1(tmp_path):
    config = unguarded(algorithm="dpo", dpo_beta=0.3)
    policy, samples, _ = made(tmp_path, config)
    reference = Reference(policy, None)
    samples = [s for s in samples if s.episode_id[-1] in "01"]
    with torch.no_grad():
        first = {s.episode_id: float(chosen(policy, s, 1.0).sum()) for s in samples}
        for p in policy.trainable().values():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    passes = Minibatch(samples, policy, reference, config, RowLimits(60)).no_grad_pass()
    _, gradients = ours(policy, samples, passes, config, 60)
    metrics = algorithm_of(config).credit(samples, passes).metrics

    policy.model.zero_grad(set_to_none=True)
    gains = {s.episode_id: chosen(policy, s, 1.0).sum() - first[s.episode_id] for s in samples}
    groups = sorted({s.group for s in samples})
    margins = torch.stack([0.3 * (gains[f"{g}e1"] - gains[f"{g}e0"]) for g in groups])
    expected = -torch.nn.functional.logsigmoid(margins).mean()
    expected.backward()
    assert_same(policy, expected.detach(), metrics["dpo_loss"] / len(groups), gradients)
    assert metrics["dpo_margin"] == pytest.approx(float(margins.detach().sum()), rel=1e-4)


def test_policy_gradients_keep_the_sampling_temperature(tmp_path):
    config = unguarded()
    policy, samples, _ = made(tmp_path, config)
    passes = Minibatch(samples, policy, None, config, RowLimits()).no_grad_pass()
    for one, seen in zip(samples, passes, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(seen.old, chosen(policy, one))


@pytest.mark.parametrize("algorithm", IMITATION)
def test_an_entropy_bonus_is_refused_where_it_would_have_no_effect(algorithm):
    with pytest.raises(ValidationError, match=f"{algorithm} imitates.*leave entropy_coef at 0"):
        RunConfig(steps=1, algorithm=algorithm, entropy_coef=0.001)
    assert RunConfig(steps=1, algorithm=algorithm).entropy_coef == 0
    unchecked = RunConfig(steps=1, algorithm=algorithm).model_copy(update={"entropy_coef": 0.001})
    with pytest.raises(BadInput, match="leave entropy_coef at 0"):
        algorithm_of(unchecked)


@pytest.mark.parametrize("value", [-0.001, float("nan"), float("inf"), "much"])
def test_an_entropy_bonus_is_a_number_of_at_least_0(value):
    with pytest.raises(ValidationError, match="entropy_coef"):
        RunConfig(steps=1, entropy_coef=value)


@pytest.mark.parametrize("algorithm", POLICY_GRADIENT)
def test_a_large_entropy_bonus_raises_the_entropy_in_every_policy_gradient_algorithm(tmp_path, algorithm):
    config = unguarded(algorithm=algorithm, entropy_coef=100.0, optimizer={"lr": 1e-3})
    policy, samples, _ = made(tmp_path, config)
    trainer = Trainer(policy, config)
    before, after = (trainer.step(samples, i).metrics["entropy"] for i in range(2))
    assert after > before


def test_a_row_without_a_finite_entropy_is_left_out_of_a_bonus(tmp_path, monkeypatch):
    config = unguarded(entropy_coef=0.1)
    policy, samples, passes = made(tmp_path, config)
    whole = policy.logprobs
    rows = iter([True, *[False] * 100])

    def broken(row):
        now = whole(row)
        return now._replace(entropy=now.entropy * float("nan")) if next(rows) else now

    monkeypatch.setattr(policy, "logprobs", broken)
    loss, gradients = ours(policy, samples, passes, config, 30)
    assert torch.isfinite(torch.tensor(loss))
    assert all(torch.isfinite(g).all() for g in gradients.values())
