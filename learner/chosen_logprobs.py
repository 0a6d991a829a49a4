"""Logprobs of chosen tokens from hidden states, without ever holding the logits of a row.

The head runs on a piece of the tokens at a time. A piece's logits are thrown away on the way forward and computed again
on the way back (`torch.utils.checkpoint`), where they turn into their own gradient in place: one float32 tensor of
`LOGITS_AT_ONCE` is the most there is beside the head's own output.
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
    head: Callable[[Tensor], Tensor], hidden: Tensor, target: Tensor, temperature: Tensor, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Return [M] float32 log_softmax(logits / temperature) at the targets, with gradient, and [M] entropies in nats.

    Args:
        head: hidden states to logits.
        hidden: [M, H]
        target: [M] token ids.
        temperature: [M]
        vocabulary: logits for each token.
    """
    piece = max(1, LOGITS_AT_ONCE // vocabulary)

    def of_piece(hidden: Tensor, target: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        return _Chosen.apply(head(hidden), target, temperature)

    pieces = [
        checkpoint(of_piece, *several, use_reentrant=False)
        for several in zip(hidden.split(piece), target.split(piece), temperature.split(piece), strict=True)
    ]
    return torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces])


class _Chosen(torch.autograd.Function):
    """Logits [m, V] to logprobs of targets [m] and entropies [m]; in float32, whatever the logits are."""

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
        by_logit = (chosen / temperature)[:, None]  # (1 at the target, less p) / temperature
        gradient = (logits.float() / temperature[:, None]).sub_(total[:, None]).exp_().mul_(-by_logit)
        return gradient.scatter_add_(-1, target[:, None], by_logit).to(logits.dtype), None, None
