"""Abandoned episodes: does the server keep working, and does its memory stay constant?

    .venv/bin/python benchmarks/leaks.py [--quick] [--environment NAME] [--per-minute N] [--minutes M] [--lease-s S]

200 episodes per minute are opened for ten minutes, receive one action or none, and are abandoned. A well-behaved agent
plays throughout. One lease after the end, no environment may be open, and the memory of the server and all its
processes may not have grown by more than a few MiB since the second minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.environments import SERVER, memory_mib
from benchmarks.support.episodes_load import Connection
from clients.demo.machine import machine
from clients.demo.server_process import ServerProcess, free_port
from env_adapters import environment_spec

ALLOWED_MIB = 24.0
"""Maximum growth of memory, chosen by this project: SQLite caches up to 2 MB per connection."""


async def abandon(url: str, environment: str, tasks: list[str], number: int) -> int:
    """Open an episode, act in every second one, and abandon it; return the HTTP status."""
    connection = Connection(url)
    body = {"environment": environment, "task": tasks[number % len(tasks)], "seed": number}
    status, opened = await connection.send("POST", "/v1/episodes", body)
    if status == 201 and number % 2:
        await connection.send("POST", f"/v1/episodes/{opened['id']}/steps", {"action": "look"})
    connection.close()
    return status


async def behave(url: str, environment: str, task: str, until: float) -> dict[str, Any]:
    """Play correctly until a time; return the number of episodes and the slowest step."""
    connection, episodes, slowest = Connection(url), 0, 0.0
    while time.monotonic() < until:
        status, opened = await connection.send("POST", "/v1/episodes", {"environment": environment, "task": task})
        if status != 201:
            await asyncio.sleep(0.5)
            continue
        for _ in range(5):
            began = time.monotonic()
            await connection.send("POST", f"/v1/episodes/{opened['id']}/steps", {"action": "look"})
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.2)
        await connection.send("POST", f"/v1/episodes/{opened['id']}/close", {})
        episodes += 1
    connection.close()
    return {"episodes": episodes, "slowest_step_ms": 1000 * slowest}


async def leak(url: str, server: psutil.Process, arguments: argparse.Namespace) -> dict[str, Any]:
    """Abandon episodes for the given time; return the measurements."""
    tasks = environment_spec(arguments.environment).tasks("train")
    began, statuses, memory, open_now = time.monotonic(), dict[int, int](), [memory_mib(server)], list[int]()
    until = began + 60 * arguments.minutes
    good = asyncio.create_task(behave(url, arguments.environment, tasks[0], until))
    for number in range(int(arguments.per_minute * arguments.minutes)):
        await asyncio.sleep(max(0.0, began + number * 60 / arguments.per_minute - time.monotonic()))
        status = await asyncio.wait_for(abandon(url, arguments.environment, tasks, number), 60)
        statuses[status] = statuses.get(status, 0) + 1
        if (number + 1) % max(1, int(arguments.per_minute * arguments.minutes / 10)) == 0:
            memory.append(memory_mib(server))
            open_now.append(await _open(url, arguments.environment))
            print(
                f"{time.monotonic() - began:6.0f} s  {memory[-1]:7.1f} MiB  {open_now[-1]:4d} open  {statuses}",
                file=sys.stderr,
                flush=True,
            )
    behaved = await good
    await asyncio.sleep(1.5 * arguments.lease_s + 2)
    memory.append(memory_mib(server))
    return {
        "statuses": statuses,
        "memory_mib": memory,
        "open": open_now,
        "well_behaved": behaved,
        "open_at_the_end": await _open(url, arguments.environment),
        "grown_mib": memory[-1] - memory[2],
    }


async def _open(url: str, environment: str) -> int:
    connection = Connection(url)
    _, listed = await connection.send("GET", "/v1/environments")
    connection.close()
    return next(int(view["open"]) for view in listed["data"] if view["name"] == environment)


def main() -> int:
    """Measure, print, and return 1 if a bound was exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,200 per minute for 15 s, with a lease of 2 s")
    parser.add_argument("--environment", default="textcraft", help="environment to open; default %(default)s")
    parser.add_argument("--per-minute", type=float, default=200.0, help="episodes per minute; default %(default)s")
    parser.add_argument("--minutes", type=float, default=10.0, help="duration; default %(default)s")
    parser.add_argument("--lease-s", type=float, default=30.0, help="lease of the server; default %(default)s")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.per_minute, arguments.minutes, arguments.lease_s = 1200.0, 0.25, 2.0
    flags = [*SERVER, "--environments.lease-s", str(arguments.lease_s)]
    with (
        tempfile.TemporaryDirectory(prefix="upturn-leaks-") as folder,
        ServerProcess(Path(folder), free_port(), flags, lambda *_: None) as server,
    ):
        figures = asyncio.run(leak(server.url, psutil.Process().children()[-1], arguments))
    well = (
        figures["open_at_the_end"] == 0
        and figures["grown_mib"] < ALLOWED_MIB
        and figures["well_behaved"]["episodes"] > 0
        and set(figures["statuses"]) <= {201, 429}
    )
    print(
        f"{machine()}; {arguments.environment}, {arguments.per_minute:g} per minute for {arguments.minutes:g} minutes, "
        f"lease {arguments.lease_s:g} s"
    )
    memory, behaved = figures["memory_mib"], figures["well_behaved"]
    print(
        f"answers {figures['statuses']}; open at the end {figures['open_at_the_end']}; memory {memory[0]:.0f} to "
        f"{memory[-1]:.0f} MiB; the well-behaved agent played {behaved['episodes']} episodes, its slowest step took "
        f"{behaved['slowest_step_ms']:.0f} ms"
    )
    print("passed" if well else "FAILED")
    print(json.dumps({"machine": machine(), "well": well, **vars(arguments), **figures}))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
