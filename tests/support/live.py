"""A live server in a thread: streaming and disconnects can only be tested over a real socket. The rest needs none."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI
from openai import OpenAI

from server.app import create_app
from server.engines.settings import EngineSettings
from server.settings import Settings
from server.training.settings import LearnerSettings
from server.wiring.parts import Parts
from upturn.client import Client

CHAT = "/v1/chat/completions"


@dataclass
class Live:
    """A running server and ways to talk to it."""

    url: str
    app: FastAPI
    loop: asyncio.AbstractEventLoop
    closing: ExitStack

    @property
    def parts(self) -> Parts:
        return self.app.state.parts

    @cached_property
    def client(self) -> Client:
        return self.closing.enter_context(Client(self.url))

    @cached_property
    def http(self) -> httpx2.Client:
        return self.closing.enter_context(httpx2.Client(base_url=self.url, timeout=60))

    def openai(self, key: str = "sk-test", base_url: str | None = None, **more: Any) -> OpenAI:
        return self.closing.enter_context(
            OpenAI(base_url=base_url or f"{self.url}/v1", api_key=key, max_retries=0, **more)
        )


def until(condition: Callable[[], object], what: str = "the condition was not met", seconds: float = 120) -> None:
    """Wait for a condition; fail with `what` if it is not met in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def read_metrics(live: Live) -> dict[str, float]:
    """Return the values of `GET /metrics` by name with labels."""
    lines = live.http.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def settings_for(directory: Path, **changes: Any) -> Settings:
    """Settings of a small test server; nothing is taken from files or the environment."""
    engine = changes.pop("engine", EngineSettings(kind="scripted", context_tokens=4096))
    learner = changes.pop("learner", LearnerSettings(start=False))
    return Settings.model_construct(
        **{
            **{name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()},
            "data_dir": directory,
            "port": 0,
            "engine": engine,
            "learner": learner,
            **changes,
        }
    )


def script(directory: Path, *answers: str, delay_s: float = 0.0) -> Path:
    """Write a scripted engine's weights."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "script.json").write_text(json.dumps({"answers": list(answers), "delay_s": delay_s}))
    return directory


@contextmanager
def serving(settings: Settings) -> Iterator[Live]:
    """Serve on a free loopback port until the block ends."""
    # asyncio disables Nagle's delay (40 ms per answer) only for sockets whose protocol is explicitly TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = create_app(settings, lambda: url)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    deadline = time.monotonic() + 600
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.02)
    try:
        with ExitStack() as closing:
            yield Live(url, app, loop, closing)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        loop.close()
        assert not thread.is_alive(), "the server did not stop"


@dataclass(frozen=True)
class InProcess:
    """A started application, and ways to talk to it."""

    http: httpx2.AsyncClient
    parts: Parts
    app: FastAPI

    def caller(self, key: str) -> InProcess:
        """Return the same server for a caller with a key, whose conversations are its own."""
        return replace(self, http=_client(self.app, {"authorization": f"Bearer {key}"}))

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
        yield InProcess(_client(app, {}), app.state.parts, app)


def _client(app: FastAPI, headers: dict[str, str]) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers, timeout=60)
