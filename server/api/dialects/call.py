"""A request's metadata: its caller, its episode, and whether it is a retry.

The headers are read here, not declared to FastAPI: declared ones cost each chat more than its validation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError

from server.api.access.authentication import forbids_training

LONGEST_KEY = 200
"""Maximum characters of an idempotency key."""
HEADERS = {
    "idempotency-key": {"type": "string", "maxLength": LONGEST_KEY},
    **{name: {"type": "string"} for name in ("x-episode-id", "x-no-train", "x-stainless-retry-count")},
}
"""Headers of every request with their JSON schemas, for the documentation."""
MESSAGE_WEIGHT = 300
"""Work that each message of a conversation is, beyond its text, in characters."""


@dataclass(frozen=True, slots=True)
class Call:
    """The headers and the URL of a request."""

    owner: str
    """SHA-256 of the caller's key."""
    named: str | None
    """The episode named by URL, header or key; None if the caller names no episode."""
    retry: bool
    """The client marked the request as a retry (OpenAI's and Anthropic's SDKs do)."""
    idempotency_key: str | None
    trains: bool
    """False if the caller forbids training on it."""
    size: int
    """Bytes of the body."""
    headers: Mapping[str, str]
    disconnected: Callable[[], Awaitable[None]]
    """Returns when the client has disconnected; to be awaited only while nothing has been sent."""

    returned: tuple[str, ...] = ()
    """Ids of recorded turns, responses, and items in the body, the newest first."""

    def weight(self, messages: int) -> int:
        """Return how much work a conversation of `messages` messages is, in characters (`server/heavy.py`)."""
        return self.size + MESSAGE_WEIGHT * messages


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _call(request: Request) -> Call:
    headers, caller = request.headers, request.state.caller
    key = headers.get("idempotency-key") or None
    if key is not None and len(key) > LONGEST_KEY:
        wrong = f"String should have at most {LONGEST_KEY} characters"
        raise RequestValidationError([{"type": "string_too_long", "loc": ("header", "idempotency-key"), "msg": wrong}])
    return Call(
        owner=caller.key_hash,
        named=request.path_params.get("episode_id") or headers.get("x-episode-id") or caller.episode_id,
        retry=headers.get("x-stainless-retry-count", "0") not in ("", "0"),
        idempotency_key=key,
        trains=not forbids_training(headers.get("x-no-train")),
        size=len(await request.body()),
        headers=headers,
        disconnected=partial(_disconnected, request),
    )


CallOf = Annotated[Call, Depends(_call)]
