"""The protocol between a server and an environment host: one JSON object per line, replies matched by request id.

    {"token": "..."}                                         first line, if the host requires a token
    {"id": 1, "do": "make", "instance": 7, "environment": "babyai"}
    {"id": 2, "do": "reset", "instance": 7, "task": "...", "seed": 0}
    {"id": 3, "do": "step", "instance": 7, "text": "..."}    also oracle, random (seed), close, health
    {"id": 3, "ok": {"observation": "...", ...}}
    {"id": 3, "error": "EnvironmentTimeout", "text": "no answer within 10 s", "stuck": 1}

Responsible for the encoding on both sides; the endpoints are `host.py` and the server's `environments/hosts.py`. The
connecting side chooses the numbers of its instances, which are closed with its connection.
"""

from __future__ import annotations

import json
from typing import Any

from env_adapters.hosting.workers import EnvironmentTimeout
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing, Reset, Transition, UnknownTask

LINE_BYTES = 16 * 2**20
"""Maximum length of a line: twice an answer of a million characters that are all escaped."""
_CLASSES: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (EnvironmentTimeout, EnvironmentMissing, NotImplementedError, UnknownTask)
}


class RemoteFailure(EnvironmentFailure):
    """An environment in another process failed; `error_class` names the exception's class there."""

    def __init__(self, error_class: str, text: str) -> None:
        super().__init__(text)
        self.error_class = error_class


def class_of(error: BaseException) -> str:
    """Return the name of a failure's class, also if it happened in another process."""
    return error.error_class if isinstance(error, RemoteFailure) else type(error).__name__


def text_of(error: BaseException) -> str:
    """Return a failure's message. `str` of a `KeyError` would add quotes."""
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def line(message: dict[str, Any]) -> bytes:
    """Encode a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def read(text: bytes) -> dict[str, Any]:
    """Decode a line.

    Raises:
        ValueError: the line is not a JSON object.
    """
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def failed(number: int, error: Exception, stuck: int) -> dict[str, Any]:
    """Return the reply to a call that raised an error; `stuck` is the host's number of stuck threads."""
    return {"id": number, "error": class_of(error), "text": text_of(error), "stuck": stuck}


def failure(reply: dict[str, Any]) -> Exception:
    """Return the environment's exception from the reply of `failed`."""
    kind = _CLASSES.get(reply["error"])
    return kind(reply["text"]) if kind else RemoteFailure(reply["error"], reply["text"])


def reset_message(reset: Reset) -> dict[str, Any]:
    """Return a reset as a JSON object."""
    return {"messages": reset.messages, "info": reset.info}


def transition_message(transition: Transition) -> dict[str, Any]:
    """Return a transition as a JSON object."""
    return {name: getattr(transition, name) for name in Transition.__slots__}
