"""Continuous streams and their observations: pauses between chunks, versions, failures.

Used by `hot_swap.py` and `training_latency.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import aiohttp

from benchmarks.support.load import STORY


@dataclass(slots=True)
class Observed:
    """Observations of the clients of one load."""

    gaps: list[tuple[float, float]] = field(default_factory=list)
    """(end time, seconds) of every pause between two chunks of a stream."""
    first: dict[str, float] = field(default_factory=dict)
    """Start time of the first answer, by model."""
    answers: int = 0
    seconds: list[tuple[float, float]] = field(default_factory=list)
    """(end time, seconds) of every answer."""
    failed: list[str] = field(default_factory=list)

    def longest(self, since: float, until: float) -> float:
        """Return the longest pause that overlaps an interval."""
        return max((gap for at, gap in self.gaps if at >= since and at - gap <= until), default=0.0)

    def all_between(self, since: float, until: float) -> list[float]:
        """Return the sorted pauses that lie entirely within an interval."""
        return _within(self.gaps, since, until)

    def answers_between(self, since: float, until: float) -> list[float]:
        """Return the sorted durations of the answers that lie entirely within an interval."""
        return _within(self.seconds, since, until)


def _within(spans: list[tuple[float, float]], since: float, until: float) -> list[float]:
    return sorted(seconds for at, seconds in spans if at - seconds >= since and at <= until)


def quantile(ordered: list[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


@asynccontextmanager
async def streams(url: str, model: str, at_once: int, tokens: int) -> AsyncIterator[Observed]:
    """Keep `at_once` streams running, each one answer after another, until the block ends.

    Answers have between 0.5 and 1.5 times `tokens` tokens: with equal lengths they would all start simultaneously.
    """
    observed, numbers, stop = Observed(), count(), asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    # Close idle connections before the server does, after 5 s.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def client() -> None:
            while not stop.is_set():
                try:
                    number = next(numbers)
                    await _answer(session, url, model, tokens // 2 + number * 37 % tokens, number, observed)
                except (aiohttp.ClientError, OSError, TimeoutError, RuntimeError) as error:
                    observed.failed.append(f"{type(error).__name__}: {error}")
                    await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as clients:
            for _ in range(at_once):
                clients.create_task(client())
            try:
                while observed.answers < at_once and not observed.failed:
                    await asyncio.sleep(0.05)
                yield observed
            finally:
                stop.set()


async def _answer(
    session: aiohttp.ClientSession, url: str, model: str, tokens: int, number: int, observed: Observed
) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": STORY.format(number)}],
        "max_tokens": tokens,
        "temperature": 1.0,
        "ignore_eos": True,
        "stream": True,
    }
    began = time.monotonic()
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {(await response.text())[:300]}")
        last, finished = time.monotonic(), False
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            now = time.monotonic()
            observed.gaps.append((now, now - last))
            last = now
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(str(chunk["error"])[:300])
            observed.first.setdefault(chunk["system_fingerprint"], now)
            finished = finished or any(choice["finish_reason"] for choice in chunk["choices"])
        if not finished:
            raise RuntimeError("the stream ended early")
    observed.answers += 1
    observed.seconds.append((last, last - began))
