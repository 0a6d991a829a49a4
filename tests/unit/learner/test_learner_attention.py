"""Attention over a trie equals attention under its dense mask, on a CPU and with FlexAttention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from learner.model.attention import attend, block_mask, trie_of
from learner.packing import pack
from tests.unit.learner.test_learner_samples import random_samples, sample, tiny_policy


def dense_mask(end):
    """Return [N, N] bool: query i sees key j if j is an ancestor of i or i itself."""
    node = torch.arange(len(end))
    return (node[None, :] <= node[:, None]) & (node[:, None] < end[None, :])


def ends(seed):
    """Return [N] the subtree ends of a row with several tries."""
    (row,) = pack(random_samples(seed))
    return row.end


def heads(nodes, kept=True):
    torch.manual_seed(0)
    return [torch.randn(1, heads, nodes, 16, requires_grad=kept) for heads in (4, 2, 2)]


def test_the_chains_of_two_branches_match_the_docstring():
    trunk, branch = trie_of(torch.tensor([6, 6, 4, 4, 6, 6])).form
    assert (trunk.nodes, trunk.visible.tolist(), trunk.mask) == (4, [0, 1, 2, 3], None)
    assert (branch.nodes, branch.visible.tolist()) == (2, [0, 1, 4, 5])
    assert branch.mask.tolist() == [[True, True, True, False], [True, True, True, True]]


def test_a_single_sample_uses_plain_causal_attention():
    (row,) = pack([sample([1, 2, 3], [0, 1, 1])])
    assert trie_of(row.end) is None


@pytest.mark.parametrize("seed", range(3))
def test_chains_equal_the_dense_mask_forward_and_backward(seed):
    end = ends(seed)
    query, key, value = inputs = heads(len(end))
    out, _ = attend(torch.nn.Module(), query, key, value, None, trie_of(end), scaling=0.3)
    dense = scaled_dot_product_attention(query, key, value, attn_mask=dense_mask(end), scale=0.3, enable_gqa=True)
    torch.testing.assert_close(out, dense.transpose(1, 2), atol=1e-5, rtol=0)
    weights = torch.randn_like(dense)
    ours = torch.autograd.grad((out * weights.transpose(1, 2)).sum(), inputs)
    for mine, expected in zip(ours, torch.autograd.grad((dense * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_equals_the_dense_mask():
    end = ends(0)
    query, key, value = heads(len(end), kept=False)
    flex = flex_attention(query, key, value, block_mask=block_mask(end), enable_gqa=True)
    dense = scaled_dot_product_attention(query, key, value, attn_mask=dense_mask(end), enable_gqa=True)
    torch.testing.assert_close(flex, dense, atol=1e-5, rtol=0)


def test_a_model_whose_layers_ignore_the_trie_is_refused(tmp_path):
    policy = tiny_policy(tmp_path)
    policy.model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="do not pass on the trie"):
        policy.logprobs(pack(random_samples())[0])
