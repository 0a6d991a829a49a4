"""Weights over several processes: FSDP2, each decoder layer a piece of its own and the rest another.

Between passes each process holds its part of every weight, gradient and moment. A pass gathers one layer after another;
the gradients of all processes are summed, not averaged: `step.py` divides them once, by the units of all. In one
process nothing here does anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from learner.packing import Row
from learner.parallel import distributed

if TYPE_CHECKING:
    from learner.model import Logprobs, Policy


class _Whole(nn.Module):
    """All that a pass needs, as one module: FSDP gathers its weights around `forward`."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model, self.value_head = policy.model, policy.value_head
        self._compute = policy.compute

    def forward(self, row: Row) -> Logprobs:
        return self._compute(row)


def shard(policy: Policy) -> None:
    """Leave each process its part of a policy's weights; its parameters are others afterwards."""
    if distributed.count() == 1:
        return
    mesh = init_device_mesh(distributed.device_type(), (distributed.count(),))
    whole = _Whole(policy)
    for layer in policy.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(whole, mesh=mesh, reshard_after_forward=True)  # or a reference's pass would find the policy's weights
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no multiplied sum
    policy.passes_through(whole)


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor, on every process; all must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor; it shares memory with it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor, which every process has, as parts like those of another."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
