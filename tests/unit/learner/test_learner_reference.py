"""The reference: its weights, its resets, and its checkpoints."""

from __future__ import annotations

import pytest
import torch

from learner.model.reference import Reference
from learner.packing import pack
from learner.state.checkpoint import load_checkpoint, save_checkpoint
from learner.step import Trainer
from tests.unit.learner.test_learner_samples import random_samples, tiny_policy, unguarded
from upturn.wire import OptimizerConfig

ADAPTER = unguarded(kind="adapter", lora_rank=4, kl_coef=0.1, optimizer=OptimizerConfig(lr=1e-2))
FULL = unguarded(kl_coef=0.1, optimizer=OptimizerConfig(lr=1e-3))


def test_a_new_adapters_reference_is_its_base_and_holds_no_copy(tmp_path):
    policy = tiny_policy(tmp_path, ADAPTER)
    (row, *_) = pack(random_samples())
    base = policy.logprobs(row).values.detach()
    trainer = Trainer(policy, ADAPTER)
    assert trainer.reference.weights is None
    trainer.step(random_samples(), 0)
    assert (policy.logprobs(row).values - base).abs().max() > 1e-3
    torch.testing.assert_close(trainer.reference.logprobs(row), base, atol=1e-6, rtol=0)
    assert trainer.reference.weights is None


@pytest.mark.parametrize("config", [ADAPTER, FULL], ids=["adapter", "full"])
def test_the_reference_holds_the_weights_that_the_run_began_with(tmp_path, config):
    policy = tiny_policy(tmp_path, config)
    Trainer(policy, config.model_copy(update={"kl_coef": 0.0})).step(random_samples(), 0)  # an earlier run
    (row, *_) = pack(random_samples())
    began = policy.logprobs(row).values.detach()
    trainer = Trainer(policy, config)
    trainer.step(random_samples(1), 0)
    torch.testing.assert_close(trainer.reference.logprobs(row), began, atol=1e-6, rtol=0)


def test_the_reference_is_reset_at_its_interval_and_the_metrics_show_it(tmp_path):
    config = FULL.model_copy(update={"reference_reset_every": 2})
    trainer = Trainer(tiny_policy(tmp_path, config), config)
    metrics = [trainer.step(random_samples(step), step).metrics for step in range(5)]
    assert [m["reference_reset"] for m in metrics] == [0, 0, 1, 0, 1]
    assert metrics[0]["reference_kl"] == pytest.approx(0, abs=1e-9)
    assert metrics[1]["reference_kl"] > 1e-6
    assert metrics[2]["reference_kl"] == pytest.approx(0, abs=1e-9)
    assert trainer.reference.anchor == 4


def test_a_checkpoint_keeps_a_reset_reference(tmp_path):
    config = FULL.model_copy(update={"reference_reset_every": 2})
    trainer = Trainer(tiny_policy(tmp_path, config), config)
    for step in range(4):
        trainer.step(random_samples(step), step)
    directory = save_checkpoint(trainer, tmp_path / "c", 4)
    resumed = Trainer(tiny_policy(tmp_path, config), config)
    load_checkpoint(resumed, directory)
    assert resumed.reference.anchor == 2
    assert all(torch.equal(w, resumed.reference.weights[n]) for n, w in trainer.reference.weights.items())


def test_the_anchor_is_a_pure_function_of_the_step(tmp_path):
    reference = Reference(tiny_policy(tmp_path), 3)
    assert [reference.anchor_of(step) for step in range(7)] == [0, 0, 0, 3, 3, 3, 6]
    assert Reference(tiny_policy(tmp_path), None).anchor_of(100) == 0
