"""Logprobs of chosen tokens from hidden states, without ever holding the logits of a whole row.

The output layer runs on a piece of the tokens at a time. The forward pass drops a piece's logits and the backward pass
computes them again (`torch.utils.checkpoint`) and turns them into their own gradient in place, so memory holds at most
one float32 tensor of `LOGITS_AT_ONCE` in addition to the output layer's own output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 16 * 2**20
"""Logits in one piece: 64 MiB in float32, 341 tokens of a vocabulary of 49152."""


def chosen_logprobs(
    output_layer: Callable[[Tensor], Tensor], hidden: Tensor, target: Tensor, temperature: Tensor, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Return [M] float32 log_softmax(logits / temperature) at the targets, with gradient, and [M] entropies in nats.

    Args:
        output_layer: maps hidden states to logits.
        hidden: [M, H]
        target: [M] token ids.
        temperature: [M]
        vocabulary: V, the number of logits for each token.
    """
    piece = max(1, LOGITS_AT_ONCE // vocabulary)

    def of_piece(hidden: Tensor, target: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        return _Chosen.apply(output_layer(hidden), target, temperature)

    pieces = [
        checkpoint(of_piece, *inputs, use_reentrant=False)
        for inputs in zip(hidden.split(piece), target.split(piece), temperature.split(piece), strict=True)
    ]
    return torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces])


class _Chosen(torch.autograd.Function):
    """Maps logits [m, V] to logprobs of targets [m] and entropies [m]; float32 for logits of any dtype."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        scaled = logits.float() / temperature[:, None]
        total = scaled.logsumexp(-1)
        chosen = scaled.gather(-1, target[:, None])[:, 0] - total
        share = (scaled - total[:, None]).exp_()
        entropy = total - torch.einsum("mv,mv->m", share, scaled)  # H = log Z - sum p * logit
        ctx.save_for_backward(logits, target, temperature, total)
        ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, chosen: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        logits, target, temperature, total = ctx.saved_tensors
        by_logit = (chosen / temperature)[:, None]  # d logprob / d logit = (1 at the target, minus p) / temperature
        gradient = (logits.float() / temperature[:, None]).sub_(total[:, None]).exp_().mul_(-by_logit)
        return gradient.scatter_add_(-1, target[:, None], by_logit).to(logits.dtype), None, None
