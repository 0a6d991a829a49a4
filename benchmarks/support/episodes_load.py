"""A load generator for environment steps: concurrent episodes of equal length, each on a persistent connection.

Used by `environments.py` and `leaks.py`. It shares the machine with the server, so its HTTP client is minimal: one
request at a time per connection, answers of known length.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

IDLE_S = 4.0
"""Idle time after which a connection is replaced: servers close idle connections after 5 s."""


class Connection:
    """One connection, with one request at a time."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._host, self._port = where.hostname or "", where.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used_at = 0.0

    async def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return the status and the answer's JSON."""
        if time.monotonic() - self._used_at > IDLE_S:
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        text = b"" if body is None else json.dumps(body).encode()
        writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(text)}\r\n\r\n".encode()
            + text
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        answer = await reader.readexactly(length)
        self._used_at = time.monotonic()
        return int(head[9:12]), json.loads(answer) if answer else None

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass(frozen=True, slots=True)
class Script:
    """The actions of one episode, none of which ends it."""

    task: str
    seed: int
    actions: list[str]


@dataclass(slots=True)
class Measured:
    """Measurements of some rounds of episodes."""

    steps: int = 0
    wall_s: float = 0.0
    """Stepping time only."""
    latencies_ms: list[float] = field(default_factory=list)
    open_ms: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Return the reported figures."""
        ordered, opened = sorted(self.latencies_ms), sorted(self.open_ms)
        return {
            "steps_per_s": self.steps / self.wall_s,
            "p50_ms": ordered[len(ordered) // 2],
            "p95_ms": ordered[int(0.95 * len(ordered))],
            "open_p50_ms": opened[len(opened) // 2],
        }


class Ours:
    """Episodes of our server."""

    def __init__(self, url: str, environment: str) -> None:
        self._url, self._environment = url, environment

    async def begin(self, connection: Connection, script: Script) -> Any:
        """Open an episode; return its id."""
        body = {"environment": self._environment, "task": script.task, "seed": script.seed, "horizon": 10_000}
        while (answer := await connection.send("POST", "/v1/episodes", body))[0] == 429:
            await asyncio.sleep(0.2)  # Episodes of the previous round are still closing.
        return _checked(answer)["id"]

    async def step(self, connection: Connection, episode: Any, action: str) -> None:
        """Act."""
        _checked(await connection.send("POST", f"/v1/episodes/{episode}/steps", {"action": action}))

    async def end(self, connection: Connection, episode: Any) -> None:
        """Close the episode."""
        _checked(await connection.send("POST", f"/v1/episodes/{episode}/close", {}))

    def connection(self) -> Connection:
        """Return a new connection to the server."""
        return Connection(self._url)


async def measure(target: Any, scripts: Sequence[Script], at_once: int, seconds: float) -> Measured:
    """Play rounds of `at_once` concurrent episodes until stepping has taken `seconds`."""
    measured, connections = Measured(), [target.connection() for _ in range(at_once)]
    await _round(target, connections, scripts, Measured())
    while measured.wall_s < seconds:
        await _round(target, connections, scripts, measured)
    for connection in connections:
        connection.close()
    return measured


async def _round(target: Any, connections: list[Connection], scripts: Sequence[Script], measured: Measured) -> None:
    chosen = [scripts[number % len(scripts)] for number in range(len(connections))]

    async def begun(connection: Connection, script: Script) -> Any:
        began = time.perf_counter()
        episode = await target.begin(connection, script)
        measured.open_ms.append(1000 * (time.perf_counter() - began))
        return episode

    async def played(connection: Connection, episode: Any, script: Script) -> None:
        for action in script.actions:
            began = time.perf_counter()
            await target.step(connection, episode, action)
            measured.latencies_ms.append(1000 * (time.perf_counter() - began))

    episodes = await asyncio.gather(*map(begun, connections, chosen))
    began = time.perf_counter()
    await asyncio.gather(*map(played, connections, episodes, chosen))
    measured.wall_s += time.perf_counter() - began
    measured.steps += sum(len(script.actions) for script in chosen)
    await asyncio.gather(*(target.end(c, episode) for c, episode in zip(connections, episodes, strict=True)))


def _checked(answer: tuple[int, Any]) -> Any:
    status, body = answer
    if status >= 300:
        raise RuntimeError(f"answered {status}: {json.dumps(body)[:500]}")
    return body
