"""A learner that is killed and restarted does the same as an uninterrupted one."""

from __future__ import annotations

import resource

import pytest
import torch

from learner.state.checkpoint import CheckpointError, load_checkpoint, newest_checkpoint, save_checkpoint
from learner.step import Trainer
from tests.unit.learner.test_learner_samples import random_samples, tiny_policy, unguarded
from upturn.wire import OptimizerConfig

FULL = unguarded(steps=4, optimizer=OptimizerConfig(lr=1e-3, warmup_steps=3), kl_coef=0.01, minibatches=2)
ADAPTER = FULL.model_copy(update={"kind": "adapter", "lora_rank": 4})


def trained(tmp_path, config, steps, trainer=None):
    trainer = trainer or Trainer(tiny_policy(tmp_path, config), config)
    for step in steps:
        assert trainer.step(random_samples(seed=step), step).trained
    return trainer


@pytest.mark.parametrize("config", [FULL, ADAPTER], ids=["full", "adapter"])
def test_two_steps_a_restart_and_two_steps_equal_four_steps_bit_for_bit(tmp_path, config):
    whole = trained(tmp_path, config, range(4))
    save_checkpoint(trained(tmp_path, config, range(2)), tmp_path / "checkpoints", 2)

    resumed = Trainer(tiny_policy(tmp_path, config), config)
    step, directory = newest_checkpoint(tmp_path / "checkpoints", up_to=4)
    load_checkpoint(resumed, directory)
    trained(tmp_path, config, range(step, 4), resumed)

    assert step == 2
    assert all(torch.equal(p, resumed.policy.trainable()[name]) for name, p in whole.policy.trainable().items())


def test_the_newest_two_checkpoints_are_kept_and_an_unfinished_one_is_ignored(tmp_path):
    trainer, root = Trainer(tiny_policy(tmp_path), unguarded()), tmp_path / "checkpoints"
    assert newest_checkpoint(root, up_to=10) is None
    for step in (1, 2, 3):
        save_checkpoint(trainer, root, step)
    (root / "step-000004.part").mkdir()
    assert newest_checkpoint(root, up_to=10) == (3, root / "step-000003")
    assert newest_checkpoint(root, up_to=2) == (2, root / "step-000002")
    assert sorted(d.name for d in root.iterdir()) == ["step-000002", "step-000003", "step-000004.part"]


def test_the_checkpoint_of_a_step_can_be_overwritten(tmp_path):
    trainer = Trainer(tiny_policy(tmp_path), unguarded())
    assert save_checkpoint(trainer, tmp_path / "c", 1) == save_checkpoint(trainer, tmp_path / "c", 1)


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    trainer = Trainer(tiny_policy(tmp_path), unguarded())
    directory = save_checkpoint(trainer, tmp_path / "c", 1)
    with pytest.raises(CheckpointError, match="another config"):
        load_checkpoint(Trainer(tiny_policy(tmp_path), unguarded(steps=2)), directory)


def test_a_checkpoint_that_does_not_fit_is_an_error_and_leaves_nothing_on_the_disk(tmp_path):
    trainer, root = Trainer(tiny_policy(tmp_path), unguarded()), tmp_path / "checkpoints"
    save_checkpoint(trainer, root, 1)
    (root / "step-000002.part").mkdir()  # Left by a learner that was killed.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # As on a full disk, a write fails in the middle.
    try:
        with pytest.raises(CheckpointError, match=r"step-000003.part cannot be written or read, [\d,]+ MiB are free"):
            save_checkpoint(trainer, root, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in root.iterdir()] == ["step-000001"]
