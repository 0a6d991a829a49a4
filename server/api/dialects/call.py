"""A request's metadata: its caller, its episode, and whether it is a retry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Depends, Header, Request

from server.api.access.authentication import CallerOf, NoTrain

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


async def _call(
    request: Request,
    caller: CallerOf,
    no_train: NoTrain,
    x_episode_id: Annotated[str | None, Header()] = None,
    x_stainless_retry_count: Annotated[str | None, Header()] = None,
    idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
) -> Call:
    return Call(
        owner=caller.key_hash,
        named=request.path_params.get("episode_id") or x_episode_id or caller.episode_id,
        retry=(x_stainless_retry_count or "0") != "0",
        idempotency_key=idempotency_key,
        trains=not no_train,
        size=len(await request.body()),
        headers=request.headers,
        disconnected=partial(_disconnected, request),
    )


CallOf = Annotated[Call, Depends(_call)]
