"""Frames of the token channel: many answers over one connection between the server and its vLLM.

A frame is the length of a message (4 bytes, little-endian) and the message in MessagePack. All frames of one turn of
the event loop leave in one write, so an engine step costs one system call and not one for each answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

TOKEN_PLUGIN = "upturn_tokens"
"""The name of vLLM's plugin that answers on the channel (`endpoint.py`)."""
TOKEN_SOCKET = "UPTURN_TOKEN_SOCKET"
"""The environment variable that tells it the path of the socket."""
_LENGTH = 4


class Ask(msgspec.Struct, array_like=True, tag="ask"):
    """A prompt to answer."""

    number: int
    """Number of the answer, unique on the connection."""
    model: str
    prompt_ids: list[int]
    """[P]"""
    sampling: dict[str, Any]
    """Fields of vLLM's `SamplingParams`."""
    whole: bool
    """The answer may come in one chunk."""


class Stop(msgspec.Struct, array_like=True, tag="stop"):
    """Nobody needs the rest of an answer."""

    number: int


class Chunk(msgspec.Struct, array_like=True, tag="chunk"):
    """Consecutive tokens of an answer."""

    number: int
    token_ids: list[int]
    """[K]"""
    logprobs: list[float]
    """[K] natural logarithms."""
    alternatives: list[dict[int, float]] | None = None
    """[K] logprobs by token id, if requested."""
    finish_reason: str | None = None
    """Set on the last chunk."""
    versions: list[tuple[str, int, int]] | None = None
    """On the last chunk: the weights' label, and the first and the end of the answer's tokens that they sampled."""


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """The end of an answer that failed."""

    number: int
    status: int
    """As in HTTP."""
    message: str


class Frames(asyncio.Protocol):
    """One end of a connection.

    Args:
        kinds: the messages that the other end sends.
        on_messages: receives the messages that arrived together.
        on_lost: called when the connection has ended.
    """

    def __init__(self, kinds: Any, on_messages: Callable[[list[Any]], None], on_lost: Callable[[], None]) -> None:
        self._decode, self._encode = msgspec.msgpack.Decoder(kinds).decode, msgspec.msgpack.Encoder().encode
        self._on_messages, self._on_lost = on_messages, on_lost
        self._received, self._to_send = bytearray(), bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end."""
        self._transport = None
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        """Pass complete messages on."""
        self._received += data
        messages, begin = [], 0
        with memoryview(self._received) as view:
            while (first := begin + _LENGTH) <= len(view):
                end = first + int.from_bytes(view[begin:first], "little")
                if end > len(view):
                    break
                messages.append(self._decode(view[first:end]))
                begin = end
        if messages:
            del self._received[:begin]
            self._on_messages(messages)

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message soon; without a connection, it is dropped."""
        if not self.open:
            return
        if not self._to_send:
            asyncio.get_running_loop().call_soon(self._flush)
        encoded = self._encode(message)
        self._to_send += len(encoded).to_bytes(_LENGTH, "little")
        self._to_send += encoded

    def close(self) -> None:
        """End the connection, without a report."""
        self._on_lost = lambda: None
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def _flush(self) -> None:
        if self._to_send and self._transport is not None:
            self._transport.write(bytes(self._to_send))
        self._to_send.clear()
