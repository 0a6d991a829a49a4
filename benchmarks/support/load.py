"""A load generator for chat completions: concurrent requests on persistent connections, answers checked for length.

Used by `serving.py` and `hot_path.py`. It measures what a client observes, identically for every target.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import aiohttp

STORY = "Tell a story of a lighthouse, a keeper, a storm at night, and a ship that is late. This is story number {}."
_numbers = count()


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers `/v1/chat/completions`."""

    name: str
    url: str
    model: str
    key: str = "any"


@dataclass(frozen=True, slots=True)
class Shape:
    """Form of the requests."""

    tokens: int
    """Exact length of each answer."""
    concurrency: int
    stream: bool
    turns: int = 1
    """Requests of each conversation; each one continues the answer before it."""

    @property
    def text(self) -> str:
        """Description of the shape."""
        return f"{self.tokens:>3} tokens, {self.concurrency:>2} concurrent, {'streamed' if self.stream else 'whole'}"


@dataclass(slots=True)
class Measured:
    """Measurements of one target and shape."""

    rates: list[float] = field(default_factory=list)
    """[rounds] requests per second."""
    latencies_ms: list[float] = field(default_factory=list)
    """[requests] in the order of their answers."""
    failed: int = 0
    """Requests that had to be resent."""

    def quantile_ms(self, share: float) -> float:
        """Return a quantile of the latencies."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def figures(self, direct: Measured) -> dict[str, Any]:
        """Return the reported figures; a ratio is the median of the ratios within each round."""
        return {
            "requests_per_s": statistics.median(self.rates),
            "p50_ms": self.quantile_ms(0.5),
            "p95_ms": self.quantile_ms(0.95),
            "rounds": self.rates,
            "of_direct": statistics.median(a / b for a, b in zip(self.rates, direct.rates, strict=True)),
            "added_p50_ms": self.quantile_ms(0.5) - direct.quantile_ms(0.5),
            "failed": self.failed,
        }


async def compare(targets: Sequence[Target], shape: Shape, *, rounds: int, requests: int) -> dict[str, Measured]:
    """Send `requests` to each target in alternation, in `rounds` rounds, after a warm-up."""
    measured = {target.name: Measured() for target in targets}
    async with connections() as session:
        for target in targets:
            await send(session, target, shape, shape.concurrency, Measured())
        for turn in range(rounds):
            # Reverse every second round, so that no target always comes first.
            for target in targets[:: -1 if turn % 2 else 1]:
                await send(session, target, shape, requests, measured[target.name])
    return measured


def connections() -> aiohttp.ClientSession:
    """Return a session that closes idle connections before the server does, after 5 s (uvicorn's default)."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600))


async def send(session: aiohttp.ClientSession, target: Target, shape: Shape, requests: int, measured: Measured) -> None:
    """Send one round of requests to a target, and add it to its measurements."""
    left, round_began = iter(range(requests)), time.perf_counter()

    async def client() -> None:
        talk: list[dict[str, str]] = []
        for _ in left:
            if len(talk) >= 2 * shape.turns:
                talk = []
            talk.append({"role": "user", "content": "Go on." if talk else STORY.format(next(_numbers))})
            began = time.perf_counter()
            while (answered := await _ask(session, target, shape, talk)) is None:
                measured.failed += 1
                if measured.failed > requests:
                    raise RuntimeError(f"{target.name} refuses more requests than it answers")
            measured.latencies_ms.append(1000 * (time.perf_counter() - began))
            tokens, text = answered
            if tokens != shape.tokens:
                raise RuntimeError(f"{target.name} answered {tokens} tokens, not {shape.tokens}")
            talk.append({"role": "assistant", "content": text})

    async with asyncio.TaskGroup() as clients:
        for _ in range(shape.concurrency):
            clients.create_task(client())
    measured.rates.append(requests / (time.perf_counter() - round_began))


async def _ask(
    session: aiohttp.ClientSession, target: Target, shape: Shape, messages: list[dict[str, str]]
) -> tuple[int, str] | None:
    """Send one request; return the number of tokens and the text of its answer, or None if it must be resent."""
    body: dict[str, Any] = {
        "model": target.model,
        "messages": messages,
        "max_tokens": shape.tokens,
        "temperature": 1.0,
        "ignore_eos": True,
        "stream": shape.stream,
    }
    if shape.stream:
        body["stream_options"] = {"include_usage": True}
    headers = {"authorization": f"Bearer {target.key}"}
    async with session.post(f"{target.url}/v1/chat/completions", json=body, headers=headers) as response:
        if response.status == 503:
            return None
        if response.status != 200:
            raise RuntimeError(f"{target.name} answered {response.status}: {(await response.text())[:500]}")
        if not shape.stream:
            answer = json.loads(await response.read())
            return int(answer["usage"]["completion_tokens"]), answer["choices"][0]["message"]["content"] or ""
        tokens, text = 0, []
        async for line in response.content:
            if shape.turns > 1 and b'"content"' in line:
                text.append(json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]["content"])
            if b'"completion_tokens"' in line:
                tokens = int(json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"])
        return tokens, "".join(text)
