"""A server without a socket: its application answers in the event loop of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from server.app import create_app
from server.settings import Settings
from server.wiring.parts import Parts

CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class InProcess:
    """A started application, and ways to talk to it."""

    http: httpx2.AsyncClient
    parts: Parts

    async def chat(
        self, messages: list[dict[str, Any]], headers: dict[str, str] | None = None, **more: Any
    ) -> Answered:
        """Send a conversation.

        Args:
            messages: the conversation.
            headers: headers of the request.
            more: further fields of the body.
        """
        return await self.post(CHAT, {"model": "policy", "messages": messages, **more}, headers)

    async def post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Answered:
        """Send any request that takes a turn; it must succeed."""
        answer = await self.http.post(path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return Answered(answer.headers["x-episode-id"], answer.headers["x-turn-id"], answer.json())


@dataclass(frozen=True)
class Answered:
    """An answer, and where it was recorded."""

    episode: str
    turn: str
    body: dict[str, Any]

    @property
    def message(self) -> dict[str, Any]:
        """The assistant's message of a chat completion, as an agent keeps it."""
        return {name: value for name, value in self.body["choices"][0]["message"].items() if value is not None}


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[InProcess]:
    """Start an application until the block ends."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as http:
            yield InProcess(http, app.state.parts)
