"""Settings for speed and memory do not change logprobs or gradients."""

from __future__ import annotations

import shutil

import pytest
import torch

from learner.checks import BadInput
from learner.model.acceleration import accelerate
from learner.packing import pack
from learner.settings import LearnerSettings
from tests.unit.learner.test_learner_samples import random_samples, tiny_policy, unguarded


def step(policy, **settings):
    """Return logprobs and gradients of a row, and the number of bytes kept for the backward pass."""
    accelerate(policy, LearnerSettings(server="", learner="-", **settings))
    (row,) = pack(random_samples())
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        values = policy.logprobs(row).values
    values.sum().backward()
    return values, [p.grad for p in policy.trainable().values()], sum(kept.values())


@pytest.mark.parametrize("config", [unguarded(), unguarded(kind="adapter", lora_rank=4)], ids=["full", "adapter"])
def test_activation_checkpointing_keeps_less_memory_and_changes_no_number(tmp_path, config):
    values, gradients, kept = step(tiny_policy(tmp_path, config))
    again, recomputed, less = step(tiny_policy(tmp_path, config), activation_checkpointing=True)
    assert less < 0.7 * kept
    torch.testing.assert_close(again, values)
    for mine, right in zip(recomputed, gradients, strict=True):
        torch.testing.assert_close(mine, right)


@pytest.mark.filterwarnings("ignore")  # warnings of the compiler itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_keep_less_memory_and_change_no_number(tmp_path):
    values, gradients, kept = step(tiny_policy(tmp_path))
    again, compiled, less = step(tiny_policy(tmp_path), compile=True)
    assert less < kept
    torch.testing.assert_close(again, values, atol=2e-5, rtol=0)
    for mine, right in zip(compiled, gradients, strict=True):
        torch.testing.assert_close(mine / right.abs().max(), right / right.abs().max(), atol=2e-5, rtol=0)


def test_liger_without_cuda_is_refused_with_advice(tmp_path):
    with pytest.raises(BadInput, match="without --liger"):
        step(tiny_policy(tmp_path), liger=True)
