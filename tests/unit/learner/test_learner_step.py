"""One learner step: the weights that it changes, those that it keeps, and its metrics."""

from __future__ import annotations

import math

import pytest
import torch

from learner.step import Trainer
from tests.unit.learner.test_learner_samples import plain_logprobs, random_samples, sample, tiny_policy, unguarded
from upturn.wire import OptimizerConfig

LARGE_STEPS = OptimizerConfig(lr=1e-3)


def on_policy(policy, samples):
    """Return the samples with the policy's own logprobs as engine logprobs, as from a float32 engine."""
    own = []
    for one in samples:
        logprobs = [0.0] * len(one.token_ids)
        with torch.no_grad():
            values = plain_logprobs(policy, one).tolist()
        for i, value in zip([i for i, m in enumerate(one.loss_mask) if m], values, strict=True):
            logprobs[i] = value
        own.append(one.model_copy(update={"logprobs": logprobs}))
    return own


def likelihood(policy, samples, reward):
    with torch.no_grad():
        return sum(float(plain_logprobs(policy, s).sum()) for s in samples if s.reward == reward)


@pytest.mark.parametrize("minibatches", [1, 3])
def test_a_step_makes_good_episodes_likelier_and_bad_ones_less_likely(tmp_path, minibatches):
    config = unguarded(steps=1, optimizer=LARGE_STEPS, minibatches=minibatches)
    policy = tiny_policy(tmp_path, config)
    samples = on_policy(policy, random_samples())
    good, bad = likelihood(policy, samples, 1.0), likelihood(policy, samples, 0.0)
    result = Trainer(policy, config).step(samples, 0)
    assert result.trained
    assert likelihood(policy, samples, 1.0) > good
    assert likelihood(policy, samples, 0.0) < bad


def test_on_policy_samples_have_no_mismatch_and_every_metric_is_finite(tmp_path):
    policy = tiny_policy(tmp_path)
    samples = on_policy(policy, random_samples())
    metrics = Trainer(policy, unguarded()).step(samples, 0).metrics
    assert metrics["mismatch_kl"] < 1e-6
    assert metrics["capped_share"] == metrics["masked_share"] == metrics["clipped_share"] == 0
    assert metrics["trained_tokens"] == sum(sum(s.loss_mask) for s in samples)
    assert metrics["unpacked_tokens"] == sum(len(s.token_ids) for s in samples)
    assert metrics["packed_tokens"] < metrics["unpacked_tokens"]
    assert metrics["mean_reward"] == 0.5
    assert all(isinstance(v, float) and math.isfinite(v) for v in metrics.values())


def test_lineage_lists_every_trained_episode_with_its_advantage_and_its_tokens_over_all_branches(tmp_path):
    policy, samples = tiny_policy(tmp_path), random_samples(groups=2)
    samples += [sample([1, 2], [0, 1], episode=f"same{i}", group="same", reward=1.0) for i in range(3)]
    result = Trainer(policy, unguarded()).step(samples, 0)
    trained = {e.episode_id: e for e in result.episodes}
    assert set(trained) == {f"g{g}e{e}" for g in range(2) for e in range(4)}
    for name, episode in trained.items():
        assert episode.weight == sum(sum(s.loss_mask) for s in samples if s.episode_id == name)
        assert (episode.advantage > 0) == (int(name[-1]) % 2 == 1)


def test_rows_of_any_size_give_the_same_gradient(tmp_path):
    norms = []
    for limit in (4096, 60, 1):
        policy = tiny_policy(tmp_path)
        norms.append(Trainer(policy, unguarded(), max_row_tokens=limit).step(random_samples(), 0).metrics)
    assert norms[0]["rows"] < norms[1]["rows"] < norms[2]["rows"]
    assert norms[1]["grad_norm"] == pytest.approx(norms[0]["grad_norm"], rel=1e-4)
    assert norms[2]["grad_norm"] == pytest.approx(norms[0]["grad_norm"], rel=1e-4)
    assert norms[2]["loss"] == pytest.approx(norms[0]["loss"], rel=1e-4, abs=1e-6)


def test_a_batch_that_teaches_nothing_leaves_weights_and_optimizer_unchanged(tmp_path):
    policy = tiny_policy(tmp_path)
    trainer, before = Trainer(policy, unguarded()), policy.snapshot()
    same = [sample([1, 2], [0, 1], episode=str(i), reward=1.0) for i in range(4)]
    for samples in ([], same, [sample([1, 2], [0, 0], episode=str(i), reward=i) for i in range(2)]):
        result = trainer.step(samples, 0)
        assert not result.trained
        assert result.episodes == []
    assert all(torch.equal(before[name], p) for name, p in policy.trainable().items())
    assert not trainer.optimizer.state


def test_sft_learns_demonstrations_and_reports_no_mismatch(tmp_path):
    config = unguarded(steps=1, algorithm="sft", optimizer=LARGE_STEPS)
    policy = tiny_policy(tmp_path, config)
    shown = [s.model_copy(update={"logprobs": [0.0] * len(s.logprobs), "group": None}) for s in random_samples()]
    trainer = Trainer(policy, config)
    losses = [trainer.step(shown, step).metrics for step in range(3)]
    assert losses[0]["loss"] > losses[1]["loss"] > losses[2]["loss"]
    assert "mismatch_kl" not in losses[0]


def test_the_kl_term_keeps_the_policy_near_its_initial_weights(tmp_path):
    kl = {}
    for coefficient in (1e-6, 50.0):
        config = unguarded(steps=4, optimizer=LARGE_STEPS, kl_coef=coefficient)
        policy = tiny_policy(tmp_path, config)
        samples, trainer = on_policy(policy, random_samples()), Trainer(policy, config)
        results = [trainer.step(samples, step).metrics["reference_kl"] for step in range(4)]
        assert results[0] == pytest.approx(0.0, abs=1e-6)
        kl[coefficient] = results[-1]
    assert kl[50.0] < kl[1e-6]


def test_an_adapter_trains_and_its_base_does_not_change(tmp_path):
    config = unguarded(steps=1, kind="adapter", lora_rank=4, optimizer=OptimizerConfig(lr=1e-2), kl_coef=0.1)
    policy = tiny_policy(tmp_path, config)
    assert all("lora_" in name for name in policy.trainable())
    base = {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora_" not in n}
    samples, trainer = on_policy(policy, random_samples()), Trainer(policy, config)
    good = likelihood(policy, samples, 1.0)
    for step in range(2):
        trainer.step(samples, step)
    assert likelihood(policy, samples, 1.0) > good
    assert all(torch.equal(base[n], p) for n, p in policy.model.named_parameters() if n in base)


def test_a_nonfinite_gradient_is_an_error_and_changes_no_weight(tmp_path):
    policy = tiny_policy(tmp_path)
    trainer, before = Trainer(policy, unguarded()), policy.snapshot()
    name = next(iter(policy.trainable()))
    policy.trainable()[name].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match="gradient"):
        trainer.step(random_samples(), 0)
    assert all(torch.equal(before[name], p) for name, p in policy.trainable().items())
    assert all(p.grad is None for group in trainer.optimizer.param_groups for p in group["params"])
    assert not trainer.optimizer.state


def test_the_learning_rate_warms_up_over_global_steps(tmp_path):
    config = unguarded(steps=1, optimizer=OptimizerConfig(lr=1.0, warmup_steps=4))
    trainer = Trainer(tiny_policy(tmp_path, config), config)
    assert [trainer.learning_rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
