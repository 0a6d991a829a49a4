"""Answers as blocks: reasoning, text and calls, in the order in which the model wrote them.

Chat has one message with three fields; other dialects have a list of blocks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from server.api.dialects.streams import Pieces
from server.rendering.answers import Delta, ToolCall

Kind = Literal["reasoning", "content", "call"]
Stage = Literal["opens", "grows", "closes"]


@dataclass(slots=True)
class Block:
    """A part of an answer."""

    index: int
    """Position in its answer, from 0."""
    kind: Kind
    text: str = ""
    """Text so far; for a call its arguments as JSON."""
    call: ToolCall | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    """Of its tokens, if the request wants them."""


def blocks_of(message: dict[str, Any], *, reasoning: bool = True) -> list[Block]:
    """Return the blocks of a whole answer: at least one, since agents read the first without checking."""
    parts: list[tuple[Kind, str, ToolCall | None]] = []
    if reasoning and message.get("reasoning_content"):
        parts.append(("reasoning", message["reasoning_content"], None))
    if message.get("content"):
        parts.append(("content", message["content"], None))
    for position, call in enumerate(message.get("tool_calls") or []):
        function = call["function"]
        arguments = function["arguments"]
        parts.append(("call", arguments, ToolCall(position, call["id"], function["name"], arguments)))
    return [Block(index, *part) for index, part in enumerate(parts)] or [Block(0, "content")]


async def blocks(pieces: Pieces, *, reasoning: bool = True) -> AsyncIterator[tuple[Stage, Block, str]]:
    """Yield (stage, block, new text) as the blocks of one answer open, grow and close; at least one block."""
    block: Block | None = None
    count = 0
    async for _, delta in pieces:
        for kind, text, call in _parts(delta):
            if kind == "reasoning" and not reasoning:
                continue
            if block is None or kind != block.kind or kind == "call":
                if block is not None:
                    yield "closes", block, ""
                block, count = Block(count, kind, call=call), count + 1
                yield "opens", block, ""
            block.text += text
            yield "grows", block, text
    if block is None:
        block = Block(0, "content")
        yield "opens", block, ""
    yield "closes", block, ""


def _parts(delta: Delta) -> Iterator[tuple[Kind, str, ToolCall | None]]:
    if delta.reasoning:
        yield "reasoning", delta.reasoning, None
    if delta.content:
        yield "content", delta.content, None
    if delta.call is not None:
        yield "call", delta.call.arguments, delta.call
