"""Logprobs of chosen tokens are exact, and the logits of a whole row never exist."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from learner.model.chosen_logprobs import chosen_logprobs

HIDDEN, VOCABULARY, TOKENS = 8, 50, 21


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        out = function(*arguments, **(named or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
        return out


def made(dtype=torch.float32):
    torch.manual_seed(0)
    output_layer = torch.nn.Linear(HIDDEN, VOCABULARY, dtype=dtype)
    hidden = torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True)
    return output_layer, hidden, torch.randint(VOCABULARY, (TOKENS,)), torch.rand(TOKENS) + 0.5


@pytest.mark.parametrize("at_once", [VOCABULARY * 4, 1, 2**20])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_logprobs_entropies_and_gradients_equal_a_plain_log_softmax(monkeypatch, at_once, dtype, apart):
    monkeypatch.setattr("learner.model.chosen_logprobs.LOGITS_AT_ONCE", at_once)
    output_layer, hidden, target, temperature = made(dtype)
    inputs, weights = [hidden, *output_layer.parameters()], torch.randn(TOKENS)
    values, entropy = chosen_logprobs(output_layer, hidden, target, temperature, VOCABULARY)
    plain = (output_layer(hidden).float() / temperature[:, None]).log_softmax(-1)
    expected = plain.gather(-1, target[:, None])[:, 0]
    assert values.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1))
    exact = -(plain.exp() * plain).sum(-1)
    losses = (  # of the logprobs, of the entropies, and of both
        ((values * weights).sum(), (expected * weights).sum()),
        ((entropy * weights).sum(), (exact * weights).sum()),
        ((values - 3 * entropy * weights).sum(), (expected - 3 * exact * weights).sum()),
    )
    for ours, right in losses:
        of_ours, of_right = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, right))
        for mine, theirs in zip(of_ours, of_right, strict=True):
            torch.testing.assert_close(mine, theirs, atol=apart, rtol=apart)


def test_entropies_are_exact_under_autocast_to_bfloat16():
    output_layer, hidden, target, temperature = made()
    with torch.autocast("cpu", torch.bfloat16):
        _, entropy = chosen_logprobs(output_layer, 9 * hidden, target, temperature, VOCABULARY)
        logits = output_layer(9 * hidden)
    plain = (logits.float() / temperature[:, None]).log_softmax(-1)
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1))


def test_no_tensor_is_ever_larger_than_a_piece_of_logits(monkeypatch):
    piece = VOCABULARY * 10  # more than the output layer's own weights
    monkeypatch.setattr("learner.model.chosen_logprobs.LOGITS_AT_ONCE", piece)
    output_layer, hidden, target, temperature = made()
    with Largest() as largest:
        values, entropy = chosen_logprobs(output_layer, hidden, target, temperature, VOCABULARY)
        (values + entropy).sum().backward()
    assert largest.numel == piece < TOKENS * VOCABULARY
