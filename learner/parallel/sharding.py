"""Weights split over several processes by FSDP2: each decoder layer is one unit, the rest of the model another.

Between passes each process holds its part of every weight, gradient and moment. A pass gathers one layer after another.
Gradients are summed over processes, not averaged: `step.py` divides them once, by the units of all processes. In one
process nothing is split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from learner.parallel import distributed

Module = TypeVar("Module", bound=nn.Module)


def shard(model: Module, layers: Sequence[nn.Module]) -> Module:
    """Leave each process its part of a model's weights, and return the model; replaces its parameters.

    Args:
        model: its `forward` gathers all weights; no other method does.
        layers: modules inside the model that are gathered one at a time.
    """
    mesh = init_device_mesh(distributed.device_type(), (distributed.count(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    # Without resharding, a reference's pass would find the policy's weights.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no pre-multiplied sum
    return model


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor, on every process. Collective: all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor; it shares memory with the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor, which every process holds whole, split over processes in the same way as another."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
