"""Logprobs of chosen tokens and entropies from hidden states, without ever holding the logits of a whole row.

The output layer runs on a piece of the tokens at a time. The forward pass drops a piece's logits and the backward pass
computes them again (`torch.utils.checkpoint`) and turns them into their own gradient in place, so memory holds at most
two float32 tensors of `LOGITS_AT_ONCE` in addition to the output layer's own output.
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
    """Return [M] float32 log_softmax(logits / temperature) at the targets, and [M] entropies in nats, with gradients.

    An entropy that no loss uses costs nothing in the backward pass.

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
        logprobs = logits.float() / temperature[:, None]
        total = logprobs.logsumexp(-1)
        logprobs.sub_(total[:, None])
        chosen = logprobs.gather(-1, target[:, None])[:, 0]
        entropy = -logprobs.exp().mul_(logprobs).sum(-1)  # elementwise: under autocast, a product would be in bfloat16
        ctx.save_for_backward(logits, target, temperature, total, entropy)
        ctx.set_materialize_grads(False)
        return chosen, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, chosen: Tensor | None, entropy: Tensor | None) -> tuple[Tensor, None, None]:
        logits, target, temperature, total, entropies = ctx.saved_tensors
        # d logprob / d logit = ((1 at the target) - p) / temperature
        # d entropy / d logit = -p (log p + entropy) / temperature
        by_target = (torch.zeros_like(total) if chosen is None else chosen / temperature)[:, None]
        gradient = (logits.float() / temperature[:, None]).sub_(total[:, None])
        if entropy is None:
            gradient = gradient.exp_().mul_(-by_target)
        else:
            share, by_entropy = gradient.exp(), (entropy / temperature)[:, None]
            gradient.add_(entropies[:, None]).mul_(-by_entropy).sub_(by_target).mul_(share)
        return gradient.scatter_add_(-1, target[:, None], by_target).to(logits.dtype), None, None
