"""Attention over a token trie: each run of nodes attends to its ancestors and to itself, and nothing else is computed.

A *run* is a piece of a row in which every node is the child of the one before it. All its nodes have the same ancestors
above the run, so its attention is one small rectangle, causal at its right end:

    row         P0 P1 A0 A1 B0 B1            runs   P0 P1 A0 A1   ancestors: none
                                                    B0 B1         ancestors: P0 P1

On a CPU the rectangles are computed one after another; on CUDA FlexAttention skips the empty blocks of the whole row's
mask. Both take time and memory by what is visible, where a dense mask takes the square of the row. A row that is a
single run is ordinary causal attention. Transformers' models call `attend` by the name `NAME`.
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
"""Attention implementation that a model is loaded with."""


@dataclass(frozen=True)
class Run:
    """So many nodes, one after another in a row, and what they see."""

    nodes: int
    seen: Tensor
    """[K] the ancestors above the run, then the run itself."""
    mask: Tensor | None
    """[nodes, K] bool; None is causal: nothing is above."""


@dataclass
class Trie:
    """What the nodes of a row see, in the form that its device computes best."""

    form: list[Run] | BlockMask
    used: bool = False
    """A layer has attended by it. A model whose layers do not pass it on would compute something else."""


def trie_of(end: Tensor) -> Trie | None:
    """Return what the nodes of a row see; None where that is all before them.

    Args:
        end: [N] one past the last node of each node's subtree, in depth-first order.
    """
    if bool((end == len(end)).all()):
        return None
    if end.device.type == "cuda":
        return Trie(block_mask(end))
    node = torch.arange(len(end))
    # The node before a run's first one is not its parent: that node's subtree has ended.
    starts = [0, *(torch.nonzero(end[:-1] <= node[1:])[:, 0] + 1).tolist()]
    runs = []
    for start, stop in zip(starts, [*starts[1:], len(end)], strict=True):
        above = torch.nonzero(end[:start] > start)[:, 0]
        seen = torch.cat([above, node[start:stop]])
        mask = torch.ones(stop - start, len(seen), dtype=torch.bool).tril(len(above)) if len(above) else None
        runs.append(Run(stop - start, seen, mask))
    return Trie(runs)


def block_mask(end: Tensor) -> BlockMask:
    """Return the mask of a row for FlexAttention: query i sees key j where j is an ancestor of i or i itself."""

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
    """Attend as transformers' attention functions do.

    Args:
        module: the attention layer.
        query: [1, heads, N, d]
        key: [1, key heads, N, d]
        value: [1, key heads, N, d]
        attention_mask: none, or the ordinary one where no row is computed.
        trie: what the row's nodes see.
        named: scaling and others.
    """
    if trie is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **named)
    trie.used = True
    if isinstance(trie.form, BlockMask):
        query, key = query.to(value.dtype), key.to(value.dtype)  # rotation leaves them in float32
        return flex_attention_forward(module, query, key, value, trie.form, **named)
    grouped, scale = query.shape[1] != key.shape[1], named.get("scaling")
    pieces = [
        scaled_dot_product_attention(
            queries,
            key.index_select(2, run.seen),
            value.index_select(2, run.seen),
            attn_mask=run.mask,
            is_causal=run.mask is None,
            scale=scale,
            enable_gqa=grouped,
        )
        for queries, run in zip(query.split([run.nodes for run in trie.form], dim=2), trie.form, strict=True)
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


# Never compiled with the layers: rows differ in their runs, and it would be compiled again for each. FlexAttention,
# called from here, is.
AttentionInterface.register(NAME, torch.compiler.disable(attend, recursive=False))
