"""Token ids and logprobs as blobs, and the hash that finds the recorded part of a conversation."""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from server.rendering.json_text import without_halves

_RENDERED = ("content", "name", "role")
"""What chat templates show of a message, in addition to its tool calls."""


def pack_ids(token_ids: Sequence[int]) -> bytes:
    """Encode token ids as little-endian int32."""
    return _little(array("i", token_ids)).tobytes()


def unpack_ids(blob: bytes) -> list[int]:
    """Decode little-endian int32."""
    values = array("i")
    values.frombytes(blob)
    return _little(values).tolist()


def pack_logprobs(logprobs: Sequence[float]) -> bytes:
    """Encode logprobs as little-endian float32."""
    return _little(array("f", logprobs)).tobytes()


def unpack_logprobs(blob: bytes) -> list[float]:
    """Decode little-endian float32."""
    values = array("f")
    values.frombytes(blob)
    return _little(values).tolist()


def chain_hash(before: str, message: dict[str, Any]) -> str:
    """Return the hash of a conversation that ends with `message`.

    The hash only finds the recorded part of a conversation; the next prompt extends the recorded token ids. It
    therefore covers what is rendered (`rendered`), whatever else SDKs add to a message or change in it.

    Args:
        before: hash of the conversation before `message`, or an empty string.
        message: the last message.
    """
    text = json.dumps(rendered(message), sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(f"{before}\n{without_halves(text)}".encode(), digest_size=16).hexdigest()


def rendered(message: dict[str, Any]) -> dict[str, Any]:
    """Return what is rendered of a message, in one form: `role`, `content` as text, `name`, and `calls`.

    Left out are ids of tool calls, the formatting of their JSON, reasoning that is not sent back, white space around an
    answer, and, for an answer, every other key: its recorded ids are shown, not what the client made of it.
    """
    answer = message.get("role") == "assistant"
    kept = {key: message[key] for key in _RENDERED if message.get(key) not in (None, [], "")}
    if answer:
        kept.pop("name", None)
    content = kept.pop("content", "")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content)
    kept["content"] = content.strip() if answer else content
    if calls := message.get("tool_calls"):
        kept["calls"] = [_call(call) for call in calls]
    return kept


def chain_hashes(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Return one hash per message, covering the tools and all messages up to and including it."""
    return list(accumulate(messages, chain_hash, initial=digest(list(tools)) if tools else ""))[1:]


def digest(body: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _call(call: dict[str, Any]) -> list[Any]:
    """Return the name and parsed arguments of a tool call, without its id."""
    function = call.get("function") or {}
    arguments = function.get("arguments")
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        pass  # Not JSON, or nested too deeply: compare the text itself.
    return [function.get("name"), arguments]


def _little(values: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
