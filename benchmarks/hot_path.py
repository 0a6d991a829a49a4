"""CPU time of a chat request: the server's and, in the same rounds, that of a bare aiohttp proxy in front of it.

    .venv/bin/python benchmarks/hot_path.py [--quick] [--profile]

The unmodified `python -m server serve` with the scripted engine, which costs next to nothing; every turn is recorded
and synced to SQLite before it is answered. Conversations have several turns, whole and streamed. CPU time is that of a
whole process with all its threads, so other work on the machine matters little. `--profile` says where the time of the
event loop's thread goes instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pstats
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support import pass_through
from benchmarks.support.load import Measured, Shape, Target, connections, send
from clients.demo.machine import machine
from tests.support.live import script

ROOT = Path(__file__).parents[1]
ANSWER = "I walk north."
TOKENS = len(ANSWER) + 1
"""The scripted engine's tokens are bytes, and a token that ends the turn."""
TURNS = 4
SHAPES = [Shape(TOKENS, at_once, stream, TURNS) for at_once in (1, 16) for stream in (False, True)]
START_S = 60.0
LINES = 40
"""Functions shown of a profile."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process under measurement."""

    target: Target
    process: psutil.Process

    def cpu_ms(self) -> tuple[float, float]:
        """Return the CPU time of the process and of its first thread, in ms."""
        whole = self.process.cpu_times()
        first = next(thread for thread in self.process.threads() if thread.id == self.process.pid)
        return 1000 * (whole.user + whole.system), 1000 * (first.user_time + first.system_time)


@contextmanager
def server(folder: Path, *profiler: str) -> Iterator[Running]:
    """Run the server on a free port."""
    folder.mkdir()
    flags = ["--engine.kind", "scripted", "--no-learner.start", "--port", "0"]
    places = ["--data-dir", str(folder / "data"), "--model", str(script(folder / "script", ANSWER))]
    command = [sys.executable, *profiler, "-m", "server", "serve", *flags, *places]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                if httpx2.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.1)
        try:
            yield Running(Target("upturn", url, "policy"), psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGINT)  # It ends in order, and its profile is written.


async def cost(ours: Running, bare: Running, shape: Shape, rounds: int, requests: int) -> dict[str, Any]:
    """Return the figures of one shape. The proxy passes its requests on to the server."""
    measured = {running.target.name: Measured() for running in (ours, bare)}
    spent: dict[str, list[float]] = {"upturn": [], "event_loop": [], "pass_through": []}
    async with connections() as session:
        for running in (ours, bare):
            await send(session, running.target, shape, 4 * shape.concurrency, Measured())
        for turn in range(rounds):
            for running in (ours, bare)[:: -1 if turn % 2 else 1]:
                before = running.cpu_ms()
                await send(session, running.target, shape, requests, measured[running.target.name])
                whole, first = (
                    (after - earlier) / requests for after, earlier in zip(running.cpu_ms(), before, strict=True)
                )
                if running is ours:
                    spent["upturn"].append(whole)
                    spent["event_loop"].append(first)
                else:
                    spent["pass_through"].append(whole)
    return {
        **asdict(shape),
        **{f"{name}_cpu_ms": statistics.median(values) for name, values in spent.items()},
        "p50_ms": measured["upturn"].quantile_ms(0.5),
        "requests_per_s": statistics.median(measured["upturn"].rates),
        "rounds": spent,
    }


async def costs(ours: Running, quick: bool) -> list[dict[str, Any]]:
    """Measure all shapes, print the table, and return its rows."""
    print("answer, requests                    upturn CPU ms  its event loop  pass-through CPU ms  ratio  p50 ms")
    rows = []
    with pass_through.running(ours.target.url) as (pid, url):
        bare = Running(Target("pass-through", url, "policy"), psutil.Process(pid))
        for shape in SHAPES:
            requests = (200 if quick else 800) * (1 if shape.concurrency == 1 else 2)
            rows.append(row := await cost(ours, bare, shape, 3 if quick else 5, requests))
            print(
                f"{shape.text:<36}{row['upturn_cpu_ms']:>13.2f}{row['event_loop_cpu_ms']:>16.2f}"
                f"{row['pass_through_cpu_ms']:>21.2f}{row['upturn_cpu_ms'] / row['pass_through_cpu_ms']:>7.2f}"
                f"{row['p50_ms']:>8.2f}",
                flush=True,
            )
    return rows


async def load(ours: Running, shape: Shape, requests: int) -> None:
    """Send requests to the server alone."""
    async with connections() as session:
        await send(session, ours.target, shape, requests, Measured())


def profile(folder: Path, quick: bool) -> None:
    """Print where the time of the event loop's thread goes, at 16 concurrent."""
    for shape in SHAPES[2:]:
        where = folder / f"{shape.stream}.profile"
        with server(folder / str(shape.stream), "-m", "cProfile", "-o", str(where)) as ours:
            asyncio.run(load(ours, shape, 800 if quick else 4000))
        print(shape.text)
        pstats.Stats(str(where)).strip_dirs().sort_stats("tottime").print_stats(LINES)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--profile", action="store_true", help="print profiles of the server instead of the table")
    arguments = parser.parse_args()
    print(f"{machine()}; conversations of {TURNS} turns; CPU time per request, medians of rounds in turn")
    with tempfile.TemporaryDirectory(prefix="upturn-hot-path-") as name:
        folder = Path(name)
        if arguments.profile:
            profile(folder, arguments.quick)
            return
        with server(folder / "server") as ours:
            rows = asyncio.run(costs(ours, arguments.quick))
    print(json.dumps({"machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()
