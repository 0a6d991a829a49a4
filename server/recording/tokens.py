"""Blobs of token ids and logprobs, and the hash that finds a conversation's recorded part."""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

_VOLATILE = frozenset({"id", "refusal", "annotations", "audio", "reasoning", "reasoning_content", "tool_call_id"})


def pack_ids(token_ids: Sequence[int]) -> bytes:
    """Return little-endian int32."""
    return _little(array("i", token_ids)).tobytes()


def unpack_ids(blob: bytes) -> list[int]:
    """Read little-endian int32."""
    made = array("i")
    made.frombytes(blob)
    return _little(made).tolist()


def pack_logprobs(logprobs: Sequence[float]) -> bytes:
    """Return little-endian float32."""
    return _little(array("f", logprobs)).tobytes()


def unpack_logprobs(blob: bytes) -> list[float]:
    """Read little-endian float32."""
    made = array("f")
    made.frombytes(blob)
    return _little(made).tolist()


def chain_hash(before: str, message: dict[str, Any]) -> str:
    """Return the hash of a conversation that ends with `message`; `before` is the hash up to there, or empty.

    It only finds the recorded part of a conversation: what is sampled next follows the recorded token ids. So it takes
    no notice of what SDKs change in a message on its way: null and empty fields, ids of tool calls, the spelling of
    their JSON, reasoning that is not sent back, white space around an answer, content as a list of text parts.
    """
    kept = {key: value for key, value in message.items() if key not in _VOLATILE and value not in (None, [], "")}
    content = kept.pop("content", "")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content)
    kept["content"] = content.strip() if message.get("role") == "assistant" else content
    if calls := kept.pop("tool_calls", None):
        kept["calls"] = [_call(call) for call in calls]
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(f"{before}\n{text}".encode(), digest_size=16).hexdigest()


def chain_hashes(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[str]:
    """Return one hash per message, each of the tools and of all messages up to it."""
    return list(accumulate(messages, chain_hash, initial=digest(list(tools)) if tools else ""))[1:]


def digest(body: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _call(call: dict[str, Any]) -> list[Any]:
    """Return what a tool call says, whatever its id and the spelling of its arguments."""
    function = call.get("function") or {}
    arguments = function.get("arguments")
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        pass  # Not JSON: then the text itself is compared.
    return [function.get("name"), arguments]


def _little(values: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
