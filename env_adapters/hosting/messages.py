"""What a server and a host of environments say to each other: one JSON object a line, replies by the request's id.

    {"token": "..."}                                         first line, where the host wants one
    {"id": 1, "do": "make", "instance": 7, "environment": "babyai"}
    {"id": 2, "do": "reset", "instance": 7, "task": "...", "seed": 0}
    {"id": 3, "do": "step", "instance": 7, "text": "..."}    also oracle, random (seed), close, health
    {"id": 3, "ok": {"observation": "...", ...}}
    {"id": 3, "error": "EnvironmentTimeout", "text": "no answer within 10 s", "stuck": 1}

Responsible for these forms on both sides; who speaks to whom is `host.py` and the server's `environments/hosts.py`.
The side that connects chooses the numbers of its instances, and they end with its connection.
"""

from __future__ import annotations

import json
from typing import Any

from env_adapters.hosting.workers import EnvironmentTimeout
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing, Reset, Transition, UnknownTask

LINE_BYTES = 16 * 2**20
"""Longest line: an answer of a million characters, each escaped, fits twice."""
_CLASSES: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (EnvironmentTimeout, EnvironmentMissing, NotImplementedError, UnknownTask)
}


class ElsewhereFailed(EnvironmentFailure):
    """An environment in another process failed; `error_class` is the class of what it raised there."""

    def __init__(self, error_class: str, text: str) -> None:
        super().__init__(text)
        self.error_class = error_class


def class_of(error: BaseException) -> str:
    """Return the class of a failure, wherever it happened."""
    return error.error_class if isinstance(error, ElsewhereFailed) else type(error).__name__


def text_of(error: BaseException) -> str:
    """Return what a failure says; a `KeyError` would quote it."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def line(message: dict[str, Any]) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def read(text: bytes) -> dict[str, Any]:
    """Return a line's message.

    Raises:
        ValueError: it is none.
    """
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def failed(number: int, error: Exception, stuck: int) -> dict[str, Any]:
    """Return the reply to a call that raised; `stuck` is how many of the host's threads are."""
    return {"id": number, "error": class_of(error), "text": text_of(error), "stuck": stuck}


def failure(reply: dict[str, Any]) -> Exception:
    """Return what the environment raised, from such a reply."""
    kind = _CLASSES.get(reply["error"])
    return kind(reply["text"]) if kind else ElsewhereFailed(reply["error"], reply["text"])


def reset_message(reset: Reset) -> dict[str, Any]:
    """Return it as JSON."""
    return {"messages": reset.messages, "info": reset.info}


def transition_message(transition: Transition) -> dict[str, Any]:
    """Return it as JSON."""
    return {name: getattr(transition, name) for name in Transition.__slots__}
