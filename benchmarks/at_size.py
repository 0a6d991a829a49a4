"""Time of each route, and of the work in the background, at the size of the record: 1,000 turns to a million.

    .venv/bin/python benchmarks/at_size.py [--quick] [--turns 1000 10000] [--calls 200]

Half of the episodes are open, ten belong to each group, and all begin alike: the hardest case for finding a
conversation. The scripted engine answers, so the time is the server's own: from the call of the application to its
last byte, in-process, without a socket, one request after the other, with every answer on the disk. The sizes take
turns, so that other work of the machine is in all columns. SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import httpx2
from sqlalchemy.orm import Session

import migrations
from clients.demo.machine import machine
from server.feedback.due import read_due
from server.recording.idle import silent
from server.rewards.live import Window, live_rewards
from server.store.database import Database
from server.training.data.selection import select
from server.training.scheduling.activity import last_live_turn, scored_since
from tests.support.live import CHAT, InProcess, in_process, script, settings_for
from tests.support.runs.filled import ANSWERS, KEY, answer, fill, user
from upturn.wire import RunConfig

ROUNDS = 10  # The sizes take turns this often.
Call = Callable[[int], Awaitable[Any]]


class Timed:
    """An application that knows how long its last call took."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.ms = 0.0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the application."""
        began = time.perf_counter()

        async def sent(message: Any) -> None:
            self.ms = 1000 * (time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, sent)


class Size:
    """A server on a filled database."""

    def __init__(self, server: InProcess, start_ms: float) -> None:
        self.server = server
        self.start_ms = start_ms
        self._timed = Timed(server.app)
        self._http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self._timed),
            base_url="http://127.0.0.1",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=60,
        )
        self._open: list[str] = []
        self._begun: list[str] = []
        self.times: dict[str, list[float]] = {}

    async def prepare(self) -> None:
        """Find open episodes that are not in memory."""
        page = await self._http.get("/v1/episodes", params={"limit": 100, "status": "open"})
        self._open = [episode["id"] for episode in page.json()["data"]]

    def routes(self) -> dict[str, Call]:
        """Return the calls by the name of their row; each is told its number."""
        start = [user("Start")]

        def own(number: int) -> list[dict[str, Any]]:
            return [*start, answer(0), user(f"I see {number}."), answer(1), user("And?")]

        async def begin(_: int) -> None:
            self._begun.append((await self._chat(start))["x-episode-id"])

        def opened(number: int) -> str:
            return self._open[number % len(self._open)]

        return {
            "chat, begins": begin,
            "chat, continues one of all": lambda number: self._chat(own(number)[:3]),
            "chat, continues": lambda number: self._chat(own(number)),
            "chat, unknown history": lambda number: self._chat([*start, user(f"{number}"), answer(3), *start]),
            "chat, names its episode": lambda number: self._chat(start, {"x-episode-id": opened(number)}),
            "chat, a retry": lambda _: self._chat(start, {"x-stainless-retry-count": "1"}),
            "episode": lambda number: self._get(f"/v1/episodes/{opened(number)}"),
            "list": lambda _: self._get("/v1/episodes"),
            "list, by status": lambda _: self._get("/v1/episodes", status="closed"),
            "list, by group": lambda _: self._get("/v1/episodes", group="group 1"),
            "list, by text": lambda _: self._get("/v1/episodes", text="nowhere"),
            "reward": lambda number: self._post("/v1/rewards", {"id": opened(number), "value": 0.5}),
            "close": lambda number: self._post(f"/v1/episodes/{self._begun[number]}/close", {}),
            "metrics": lambda _: self._get("/metrics"),
            "healthz": lambda _: self._get("/healthz"),
        }

    def works(self) -> dict[str, Callable[[Session], Any]]:
        """Return the queries of the work in the background by the name of their row."""
        now = time.time()
        config = RunConfig(algorithm="grpo", steps=1)
        return {
            "(live episodes of a batch)": lambda s: select(
                s, config, run_id="run", play_id=None, head=0, oldest=0, now=now
            ),
            "(a look of the watch)": lambda s: live_rewards(s, 0, Window(0.0, now, 3600.0), 400),
            "(newly scored episodes)": lambda s: scored_since(s, config, now - 60, now, 1000),
            "(the last live turn)": lambda s: last_live_turn(s, 0.0),
            "(due for a scorer)": lambda s: read_due(s, "judge", ended_after=0.0, now=now, limit=32),
            "(500 silent episodes)": lambda s: s.execute(silent(now, "")).all(),
        }

    async def measure(self, name: str, call: Call, numbers: range) -> None:
        """Take the time of some calls of a route."""
        for number in numbers:
            await call(number)
            self.times.setdefault(name, []).append(self._timed.ms)

    def measure_work(self, name: str, work: Callable[[Session], Any]) -> None:
        """Take the time of a query."""
        with self.server.parts.store.database.read() as session:
            began = time.perf_counter()
            work(session)
            self.times.setdefault(name, []).append(1000 * (time.perf_counter() - began))

    async def _chat(self, messages: list[dict[str, Any]], headers: dict[str, str] | None = None) -> httpx2.Headers:
        return await self._post(CHAT, {"model": "policy", "messages": messages}, headers)

    async def _post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> httpx2.Headers:
        response = await self._http.post(path, json=body, headers=headers)
        assert response.is_success, response.text
        return response.headers

    async def _get(self, path: str, **params: Any) -> None:
        response = await self._http.get(path, params=params)
        assert response.is_success, response.text


async def start(turns: int, home: Path, running: AsyncExitStack) -> Size:
    """Fill a database and start a server on it."""
    directory = home / str(turns)
    (directory / "data").mkdir(parents=True)
    database = Database(f"sqlite:///{directory / 'data' / 'upturn.db'}")
    migrations.upgrade(database.writer)
    began = time.monotonic()
    fill(database, turns)
    database.close()
    print(f"{turns:,} turns filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
    settings = settings_for(directory / "data", model=str(script(directory / "script", *ANSWERS)))
    began = time.perf_counter()
    server = await running.enter_async_context(in_process(settings))
    size = Size(server, 1000 * (time.perf_counter() - began))
    await server.parts.statistics.refresh()
    await size.prepare()
    return size


async def run(sizes: list[int], calls: int) -> dict[int, Size]:
    """Start a server for each size, and measure them in turns."""
    with tempfile.TemporaryDirectory() as home:
        async with AsyncExitStack() as running:
            servers = {turns: await start(turns, Path(home), running) for turns in sizes}
            for turn in range(ROUNDS):
                numbers = range(turn * calls // ROUNDS, (turn + 1) * calls // ROUNDS)
                for name in next(iter(servers.values())).routes():
                    for server in servers.values():
                        await server.measure(name, server.routes()[name], numbers)
                for name in next(iter(servers.values())).works():
                    for server in servers.values():
                        server.measure_work(name, server.works()[name])
            return servers


def main() -> None:
    """Print a table of p50 and p95 for each route and size, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 turns, 50 calls")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.turns, arguments.calls = [1_000, 10_000], 50
    found = asyncio.run(run(arguments.turns, arguments.calls))
    print("| milliseconds, p50 / p95 | " + " | ".join(f"{turns:,} turns" for turns in found) + " | growth of p50 |")
    print("|---" * (len(found) + 2) + "|")
    figures: dict[str, dict[str, list[float]]] = {}
    for name in next(iter(found.values())).times:
        figures[name] = {
            str(turns): [statistics.median(size.times[name]), statistics.quantiles(size.times[name], n=20)[-1]]
            for turns, size in found.items()
        }
        columns = list(figures[name].values())
        cells = " | ".join(f"{median:.1f} / {worst:.1f}" for median, worst in columns)
        print(f"| {name} | {cells} | {columns[-1][0] / columns[0][0]:.2f} |")
    starts = {str(turns): size.start_ms for turns, size in found.items()}
    print("| (start) | " + " | ".join(f"{ms:.0f}" for ms in starts.values()) + " | |")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    about = {"machine": machine(), "calls": arguments.calls, "memory_mb_of_all": round(memory)}
    print(json.dumps({**about, "start_ms": starts, "ms_p50_p95": figures}))


if __name__ == "__main__":
    main()
