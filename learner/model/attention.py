"""Attention over a token trie: each chain of nodes attends to its ancestors and to itself; nothing else is computed.

A *chain* is a contiguous piece of a row in which every node is the child of the node before it. All its nodes have the
same ancestors above the chain, so its attention is one small rectangle, causal at its right end:

    row         P0 P1 A0 A1 B0 B1            chains  P0 P1 A0 A1   ancestors: none
                                                     B0 B1         ancestors: P0 P1

On a CPU the rectangles are computed one after another; on CUDA FlexAttention skips the empty blocks of the whole row's
mask. Both take time and memory in proportion to the visible positions, whereas a dense mask takes the square of the
row. A row that is a single chain is ordinary causal attention. Transformers' models call `attend` by the name `NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "upturn_trie"
"""Name of the attention implementation in transformers' registry."""


@dataclass(frozen=True)
class Chain:
    """A contiguous chain of nodes and its visible positions."""

    nodes: int
    """Number of nodes."""
    visible: Tensor
    """[K] positions in the row: the ancestors above the chain, then the chain itself."""
    mask: Tensor | None
    """[nodes, K] bool; None is plain causal attention, for a chain without ancestors."""


@dataclass
class Trie:
    """The visible positions of a row's nodes, in the form that suits the device."""

    form: list[Chain] | BlockMask
    """Chains on a CPU, a block mask on CUDA."""
    used: bool = False
    """True once a layer has used it. A model whose layers do not pass it on would compute something else."""


def trie_of(end: Tensor) -> Trie | None:
    """Return the visible positions of a row's nodes; None if each node sees all nodes before it.

    Args:
        end: [N] one past the last node of each node's subtree, in depth-first order.
    """
    if bool((end == len(end)).all()):
        return None
    if end.device.type == "cuda":
        return Trie(block_mask(end))
    node = torch.arange(len(end))
    # A chain starts where the node before is not the parent: that node's subtree has ended.
    starts = [0, *(torch.nonzero(end[:-1] <= node[1:])[:, 0] + 1).tolist()]
    chains = []
    for start, stop in zip(starts, [*starts[1:], len(end)], strict=True):
        above = torch.nonzero(end[:start] > start)[:, 0]
        visible = torch.cat([above, node[start:stop]])
        mask = torch.ones(stop - start, len(visible), dtype=torch.bool).tril(len(above)) if len(above) else None
        chains.append(Chain(stop - start, visible, mask))
    return Trie(chains)


def block_mask(end: Tensor) -> BlockMask:
    """Return a row's mask for FlexAttention: query i sees key j if j is an ancestor of i or i itself.

    Args:
        end: [N] one past the last node of each node's subtree, in depth-first order.
    """

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < end[key])

    return create_block_mask(sees, None, None, len(end), len(end), device=end.device)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    trie: Trie | None = None,
    **named: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention with the signature of transformers' attention functions.

    Args:
        module: the attention layer.
        query: [1, heads, N, d]
        key: [1, key heads, N, d]
        value: [1, key heads, N, d]
        attention_mask: None, or the ordinary mask for an input that is not a packed row.
        trie: the visible positions of the row's nodes; None is ordinary attention.
        named: transformers' other arguments, such as `scaling`.

    Returns:
        [1, N, heads, d] and no attention weights.
    """
    if trie is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **named)
    trie.used = True
    if isinstance(trie.form, BlockMask):
        query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings leave them in float32
        return flex_attention_forward(module, query, key, value, trie.form, **named)
    grouped, scale = query.shape[1] != key.shape[1], named.get("scaling")
    pieces = [
        scaled_dot_product_attention(
            queries,
            key.index_select(2, chain.visible),
            value.index_select(2, chain.visible),
            attn_mask=chain.mask,
            is_causal=chain.mask is None,
            scale=scale,
            enable_gqa=grouped,
        )
        for queries, chain in zip(query.split([chain.nodes for chain in trie.form], dim=2), trie.form, strict=True)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


# Never compiled with the layers: rows differ in their chains, so each row would be compiled again. FlexAttention, which
# is called from here, is compiled.
AttentionInterface.register(NAME, torch.compiler.disable(attend, recursive=False))
