"""Time of each query of each page of the dashboard, on a record of 100,000 episodes; goal: 200 ms each (p95).

    .venv/bin/python benchmarks/pages.py [--quick] [--episodes 100000] [--calls 50]

In-process, without a socket: from the call of the application to its last byte, one request after the other. SQLite.
Also how long the index of episodes takes to be built and compared, its size, how long erasing an episode takes, and the
first look at the steps of a run, which counts over all of its episodes; and whether the index slows chats down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import migrations
from benchmarks.support.many_episodes import KEY, TURNS, fill, queries
from clients.demo.machine import machine
from server.store.database import Database
from tests.support.live import InProcess, in_process, script, settings_for

GOAL_MS = 200.0


async def timed(server: InProcess, path: str, params: dict[str, Any]) -> float:
    """Return the milliseconds of a request that succeeds."""
    began = time.perf_counter()
    answer = await server.http.get(path, params=params)
    assert answer.is_success, answer.text
    return 1000 * (time.perf_counter() - began)


async def chats(server: InProcess, count: int) -> list[float]:
    """Return the milliseconds of chats that each begin an episode: the index follows meanwhile, unless it is closed."""
    times = []
    for number in range(count):
        began = time.perf_counter()
        await server.chat([{"role": "user", "content": f"How is it in place {number}?"}])
        times.append(1000 * (time.perf_counter() - began))
    return times


async def run(home: Path, episodes: int, calls: int) -> dict[str, Any]:
    """Fill a database, build its index, and measure every query; return all figures."""
    (home / "data").mkdir()
    database = Database(f"sqlite:///{home / 'data' / 'upturn.db'}")
    migrations.upgrade(database.writer)
    began = time.monotonic()
    run_id = fill(database, episodes)
    database.close()
    print(f"{episodes:,} episodes, {TURNS} turns each, filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
    figures: dict[str, Any] = {"episodes": episodes, "record_mb": size_mb(home, "upturn.db")}
    async with in_process(settings_for(home / "data", model=str(script(home / "script", "Yes.")))) as started:
        server = started.caller(KEY)
        await server.parts.statistics.refresh()
        began = time.monotonic()
        await server.parts.index.fresh()
        figures |= {"index_s": time.monotonic() - began, "index_mb": size_mb(home, "index.db")}
        began = time.monotonic()
        await server.parts.index.fresh()
        figures["compare_s"] = time.monotonic() - began
        print(f"index: {figures['index_s']:.0f} s, {figures['index_mb']:.0f} MB", file=sys.stderr)
        newest = (await server.http.get("/v1/episodes", params={"limit": 1})).json()["data"][0]["id"]
        page: dict[str, Any] = {"opened_before": time.time() - 15 * 86_400, "limit": 1}
        middle = (await server.http.get("/v1/episodes", params=page)).json()["data"][0]["id"]
        asked = list(queries(run_id, time.time(), middle, newest))
        figures["first_steps_ms"] = await timed(server, f"/v1/runs/{run_id}/steps", {})
        times: dict[str, list[float]] = {f"{page}: {name}": [] for page, name, _, _ in asked}
        for _ in range(calls):  # In turns, so that other work of the machine is in all rows.
            for page_name, name, path, params in asked:
                times[f"{page_name}: {name}"].append(await timed(server, path, params))
        began = time.perf_counter()
        assert (await server.http.delete(f"/v1/episodes/{middle}")).is_success
        figures["erase_ms"] = 1000 * (time.perf_counter() - began)
        times["chat: with the index"] = await chats(server, 20 * calls)
        await server.parts.index.close()
        times["chat: without it"] = await chats(server, 20 * calls)
    for name, its in times.items():
        figures[name] = {"p50_ms": statistics.median(its), "p95_ms": sorted(its)[int(0.95 * (len(its) - 1))]}
    return figures


def size_mb(home: Path, name: str) -> float:
    """Return the size of a database with its write-ahead log."""
    return sum(file.stat().st_size for file in (home / "data").glob(f"{name}*")) / 1e6


def main() -> None:
    """Print a table of p50 and p95 for each query, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="2,000 episodes, 10 calls")
    arguments = parser.parse_args()
    episodes, calls = (2_000, 10) if arguments.quick else (arguments.episodes, arguments.calls)
    with tempfile.TemporaryDirectory() as home:
        figures = asyncio.run(run(Path(home), episodes, calls))
    print(f"{machine()}\n")
    for name in ("record_mb", "index_mb", "index_s", "compare_s", "erase_ms", "first_steps_ms"):
        print(f"{name:<44}{figures[name]:>9.1f}")
    print(f"\n{'page: query, ms':<44}{'p50':>9}{'p95':>9}")
    for name, its in figures.items():
        if isinstance(its, dict):
            late = "  over the goal" if its["p95_ms"] > GOAL_MS else ""
            print(f"{name:<44}{its['p50_ms']:>9.1f}{its['p95_ms']:>9.1f}{late}")
    print(json.dumps({"benchmark": "pages", "machine": machine(), **figures}))


if __name__ == "__main__":
    main()
