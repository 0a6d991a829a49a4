"""Streams that never stop, and what they feel: pauses between chunks, versions, failures.

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
class Seen:
    """What the clients of one load saw."""

    gaps: list[tuple[float, float]] = field(default_factory=list)
    """(when it ended, seconds) of every pause between two chunks of a stream."""
    first: dict[str, float] = field(default_factory=dict)
    """By model: when its first answer began."""
    answers: int = 0
    seconds: list[tuple[float, float]] = field(default_factory=list)
    """(when it ended, seconds) of every answer."""
    failed: list[str] = field(default_factory=list)

    def longest(self, since: float, until: float) -> float:
        """Return the longest pause that lies, even in part, between two times."""
        return max((gap for at, gap in self.gaps if at >= since and at - gap <= until), default=0.0)

    def all_between(self, since: float, until: float) -> list[float]:
        """Return the pauses that lie between two times as a whole."""
        return _within(self.gaps, since, until)

    def answers_between(self, since: float, until: float) -> list[float]:
        """Return the seconds of the answers that lie between two times as a whole."""
        return _within(self.seconds, since, until)


def _within(spans: list[tuple[float, float]], since: float, until: float) -> list[float]:
    return sorted(seconds for at, seconds in spans if at - seconds >= since and at <= until)


def quantile(ordered: list[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


@asynccontextmanager
async def streams(url: str, model: str, at_once: int, tokens: int) -> AsyncIterator[Seen]:
    """Keep so many streams going, one answer after the other, until the block ends.

    Answers have from half of so many tokens to half as many again: of one length, they would all begin at once.
    """
    seen, numbers, stop = Seen(), count(), asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=None, sock_read=120)
    # Servers close idle connections after 5 s: these are closed here before that.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def client() -> None:
            while not stop.is_set():
                try:
                    number = next(numbers)
                    await _answer(session, url, model, tokens // 2 + number * 37 % tokens, number, seen)
                except (aiohttp.ClientError, OSError, TimeoutError, RuntimeError) as error:
                    seen.failed.append(f"{type(error).__name__}: {error}")
                    await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as clients:
            for _ in range(at_once):
                clients.create_task(client())
            try:
                while seen.answers < at_once and not seen.failed:
                    await asyncio.sleep(0.05)
                yield seen
            finally:
                stop.set()


async def _answer(session: aiohttp.ClientSession, url: str, model: str, tokens: int, number: int, seen: Seen) -> None:
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
            seen.gaps.append((now, now - last))
            last = now
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(str(chunk["error"])[:300])
            seen.first.setdefault(chunk["model"], now)
            finished = finished or any(choice["finish_reason"] for choice in chunk["choices"])
        if not finished:
            raise RuntimeError("the stream ended in the middle")
    seen.answers += 1
    seen.seconds.append((last, last - began))
