"""What the dialects beside OpenAI's chat share: their translation is checked, their answers come in blocks.

A dialect translates its request into `chat_request.ChatRequest`, lets `conversation.py` answer it, and shows the answer
in its own form. Chat knows one message with three fields; the others know a list of blocks, in the order in which the
model wrote them: reasoning, text, and calls.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Tag, ValidationError
from pydantic_core import PydanticCustomError

from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.conversation import Conversation
from server.api.dialects.streams import Pieces
from server.errors import BadRequest
from server.rendering.answers import Delta, ToolCall

Kind = Literal["reasoning", "content", "call"]
Stage = Literal["opens", "grows", "closes"]
Request = TypeVar("Request", bound=ChatRequest)
Item = TypeVar("Item")
TextOr = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Item], Tag("list")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
]
"""Text, or a list of parts; what is wrong with a part is said of the part."""


class Said(BaseModel):
    """A request, or a part of one, in which fields that it does not name change nothing."""

    model_config = ConfigDict(extra="ignore", strict=True)


@dataclass(slots=True)
class Block:
    """A part of an answer."""

    index: int
    """Among the blocks of its answer, from 0."""
    kind: Kind
    text: str = ""
    """So far; of a call its arguments, as JSON."""
    call: ToolCall | None = None


def blocks_of(message: dict[str, Any], *, reasoning: bool = True) -> list[Block]:
    """Return the blocks of a whole answer: at least one, since agents read the first without asking."""
    parts: list[tuple[Kind, str, ToolCall | None]] = []
    if reasoning and message.get("reasoning_content"):
        parts.append(("reasoning", message["reasoning_content"], None))
    if message.get("content"):
        parts.append(("content", message["content"], None))
    for position, call in enumerate(message.get("tool_calls") or []):
        said = call["function"]
        parts.append(("call", said["arguments"], ToolCall(position, call["id"], said["name"], said["arguments"])))
    return [Block(index, *part) for index, part in enumerate(parts)] or [Block(0, "content")]


async def blocks(pieces: Pieces, *, reasoning: bool = True) -> AsyncIterator[tuple[Stage, Block, str]]:
    """Yield how the blocks of one answer open, grow by a text, and close; at least one."""
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


def checked(kind: type[Request], fields: dict[str, Any]) -> Request:
    """Return the chat request that another dialect's request means; None is what it does not say.

    Raises:
        BadRequest: chat does not allow it either.
    """
    try:
        return kind.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{where}: {first['msg']}", param=where) from error


def only(known: tuple[str, ...], why: str) -> BeforeValidator:
    """Return a validator that refuses, in plain words, what is of another `type`."""

    def check(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind is not None and kind not in known:
            raise PydanticCustomError("unsupported", "{why}: {kind}", {"why": why, "kind": repr(kind)[:100]})
        return value

    return BeforeValidator(check)


def sse(conversation: Conversation, events: AsyncGenerator[str, None]) -> StreamingResponse:
    """Return a stream; a client that goes away before its end abandons the turns, which are recorded as they are."""

    async def watched() -> AsyncIterator[str]:
        finished = False
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
            finished = True
        finally:
            if not finished:
                conversation.leave()

    return StreamingResponse(watched(), media_type="text/event-stream", headers=conversation.headers)


def _parts(delta: Delta) -> Iterator[tuple[Kind, str, ToolCall | None]]:
    if delta.reasoning:
        yield "reasoning", delta.reasoning, None
    if delta.content:
        yield "content", delta.content, None
    if delta.call is not None:
        yield "call", delta.call.arguments, delta.call
