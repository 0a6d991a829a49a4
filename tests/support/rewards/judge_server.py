"""A judge on loopback that speaks OpenAI's protocol: a real HTTP server whose answers the test controls."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

GOOD = '{"score": 0.75, "reason": "it helped"}'


@dataclass
class JudgeServer:
    """The state of the judge: the requests it got and its reply."""

    url: str = ""
    reply: str = GOOD
    status: int = 200
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    """Requests wait while it is not set."""

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            while not self.open.is_set():
                await asyncio.sleep(0.01)
        finally:
            self.busy -= 1
        if self.status != 200:
            return web.Response(status=self.status, text=self.reply)
        message = {"role": "assistant", "content": self.reply}
        return web.json_response(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }
        )

    def transcripts(self) -> list[list[dict[str, Any]]]:
        return [[json.loads(line) for line in body["messages"][1]["content"].splitlines()] for body in self.requests]


@contextmanager
def judging() -> Iterator[JudgeServer]:
    """Serve until the block ends."""
    judge = JudgeServer()
    judge.open.set()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", judge.answer)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        judge.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        judge.open.set()
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
