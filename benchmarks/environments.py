"""Steps/s over REST, memory, and success of the solver and of random actions, for every installed environment.

    .venv/bin/python benchmarks/environments.py [--quick] [--only NAME ...] [--agentgym CHECKOUT]

The unmodified server with the scripted engine; every step is synced to SQLite before it is answered. The load generator
runs on the same machine. Episodes have equal length and act randomly; opening and closing are timed separately. Success
is measured without the server: the environment's solver and a random player, on tasks spread over the train split. With
a checkout of AgentGym, its servers do the same work in the same run, alternating (A B A B).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.support import agentgym_peer
from benchmarks.support.agentgym_peer import PEERS, Theirs
from benchmarks.support.episodes_load import Connection, Measured, Ours, Script, measure
from clients.demo.machine import machine
from clients.demo.server_process import ServerProcess, free_port
from env_adapters import REGISTRY, environment_spec
from env_adapters.play import Oracle, Player, RandomPlayer, play
from env_adapters.protocol import EnvironmentSpec

EPISODES = 64
SERVER = ["--engine.kind", "scripted", "--weights", "full", "--no-learner.start"]


@dataclass(frozen=True, slots=True)
class Size:
    """Extent of the measurement."""

    seconds: float
    """Stepping time per figure, in seconds."""
    tasks: int
    """Tasks per success rate."""
    steps: int
    """Steps per episode under load."""
    rounds: int = 3
    """Rounds in alternation with AgentGym."""


FULL, QUICK = Size(10.0, 50, 20), Size(1.0, 4, 6, 1)


def success(spec: EnvironmentSpec, policy: str, size: Size) -> dict[str, float] | None:
    """Play tasks without the server; return success and steps, or None if the environment has no solver."""
    tasks = spec.tasks("train")
    chosen = [tasks[number * len(tasks) // size.tasks % len(tasks)] for number in range(size.tasks)]
    played = []
    for task in chosen:
        player: Player = Oracle() if policy == "oracle" else RandomPlayer(f"{spec.name}/{task}")
        try:
            played.append(play(spec, task, 0, player, 100 if policy == "oracle" else 30, lambda *_: None))
        except NotImplementedError:
            return None
    return {
        "success": statistics.mean(float(one.success) for one in played),
        "tasks": len(played),
        "median_steps": statistics.median(one.steps for one in played),
    }


def scripts(spec: EnvironmentSpec, size: Size) -> list[Script]:
    """Return episodes of random actions that do not end early."""
    made: list[Script] = []
    tasks = spec.tasks("train")
    for number in range(4 * EPISODES):
        task = tasks[number * 7919 % len(tasks)]
        environment, rng, actions = spec.make(), random.Random(f"{task}/{number}"), list[str]()
        environment.reset(task, number)
        while len(actions) < size.steps:
            actions.append(environment.random(rng))
            transition = environment.step(actions[-1])
            if transition.terminated or transition.truncated:
                break
        else:
            made.append(Script(task, number, actions))
        environment.close()
        if len(made) == EPISODES:
            return made
    return [Script(script.task, script.seed, script.actions) for script in made] or [_still(spec, size)]


def _still(spec: EnvironmentSpec, size: Size) -> Script:
    """Return an episode of invalid answers, for environments where random actions always end the episode early."""
    return Script(spec.tasks("train")[0], 0, ["?"] * size.steps)


def memory_mib(server: psutil.Process) -> float:
    """Return the memory of a server and all its processes, shared pages counted once."""
    return sum(process.memory_full_info().pss for process in [server, *server.children(recursive=True)]) / 2**20


async def memory_per_episode(url: str, server: psutil.Process, target: Ours, made: Sequence[Script]) -> float:
    """Return the memory per open episode in MiB: the difference between 1 and all episodes open."""
    connections = [Connection(url) for _ in range(EPISODES)]
    first = await target.begin(connections[0], made[0])
    before = memory_mib(server)
    episodes = [await target.begin(c, made[number % len(made)]) for number, c in enumerate(connections[1:])]
    after = memory_mib(server)
    for connection, episode in zip(connections, [first, *episodes], strict=True):
        await target.end(connection, episode)
        connection.close()
    return (after - before) / (EPISODES - 1)


async def through_rest(name: str, made: Sequence[Script], size: Size) -> dict[str, Any]:
    """Measure one environment over REST."""
    with (
        tempfile.TemporaryDirectory(prefix="upturn-environments-") as folder,
        ServerProcess(Path(folder), free_port(), SERVER, lambda *_: None) as server,
    ):
        target = Ours(server.url, name)
        process = psutil.Process().children()[-1]
        return {
            "memory_mib_per_episode": await memory_per_episode(server.url, process, target, made),
            "at_1": (await measure(target, made, 1, size.seconds)).figures(),
            f"at_{EPISODES}": (await measure(target, made, EPISODES, size.seconds)).figures(),
        }


async def against_agentgym(name: str, checkout: Path, python: Path, size: Size) -> dict[str, Any]:
    """Measure our server and AgentGym's in alternation, with the same actions."""
    peer, task = PEERS[name], environment_spec(name).tasks("train")[0]
    made = [Script(task, seed, (peer.actions * size.steps)[: size.steps]) for seed in range(peer.at_once)]
    rates: dict[str, list[Measured]] = {"ours": [], "theirs": []}
    with (
        tempfile.TemporaryDirectory(prefix="upturn-environments-") as folder,
        ServerProcess(Path(folder), free_port(), SERVER, lambda *_: None) as server,
        agentgym_peer.serving(checkout, python, peer) as theirs,
    ):
        targets: dict[str, Ours | Theirs] = {"ours": Ours(server.url, name), "theirs": theirs}
        for _ in range(size.rounds):
            for side, target in targets.items():
                rates[side].append(await measure(target, made, peer.at_once, size.seconds))
    found = {side: [one.figures()["steps_per_s"] for one in many] for side, many in rates.items()}
    ratio = statistics.median(a / b for a, b in zip(found["ours"], found["theirs"], strict=True))
    return {"at_once": peer.at_once, **found, "ratio": ratio}


def measured(name: str, size: Size, checkout: Path | None, python: Path | None) -> dict[str, Any]:
    """Return all figures of one environment."""
    found = environment_spec(name)
    row: dict[str, Any] = {"environment": name, "isolation": found.isolation}
    for policy in ("oracle", "random"):
        _log(f"{name}: {policy}")
        row[policy] = success(found, policy, size)
    _log(f"{name}: over REST")
    row |= asyncio.run(through_rest(name, scripts(found, size), size))
    if checkout and python and name in PEERS and (checkout / PEERS[name].folder).is_dir():
        _log(f"{name}: against AgentGym's server")
        row["agentgym"] = asyncio.run(against_agentgym(name, checkout, python, size))
    return row


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(
        f"environment   steps/s at 1   at {EPISODES}   p50 ms   p95 ms   open ms   MiB/episode   oracle   random"
        "   of AgentGym's"
    )
    for row in rows:
        many = row[f"at_{EPISODES}"]
        solved = ["-" if row[who] is None else f"{row[who]['success']:.0%}" for who in ("oracle", "random")]
        ratio = f"{row['agentgym']['ratio']:.2f}" if "agentgym" in row else "-"
        print(
            f"{row['environment']:<13}{row['at_1']['steps_per_s']:>13.0f}{many['steps_per_s']:>8.0f}"
            f"{many['p50_ms']:>9.1f}{many['p95_ms']:>9.1f}{many['open_p50_ms']:>10.1f}"
            f"{row['memory_mib_per_episode']:>14.2f}{solved[0]:>9}{solved[1]:>9}{ratio:>16}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one second per figure, 4 tasks")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="environments; default: all installed")
    parser.add_argument("--agentgym", type=Path, metavar="CHECKOUT", help="checkout of AgentGym, for comparison")
    parser.add_argument(
        "--venv-dir",
        type=Path,
        default=Path.home() / ".cache" / "upturn-benchmarks" / "agentgym",
        help="virtual environment for AgentGym's servers",
    )
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    chosen = arguments.only or [name for name in REGISTRY.names() if environment_spec(name).missing() is None]
    python = agentgym_peer.installed(arguments.venv_dir) if arguments.agentgym else None
    rows = [measured(name, size, arguments.agentgym, python) for name in chosen]
    print(f"{machine()}; every step synced to SQLite; load generator on the same machine")
    report(rows)
    print(json.dumps({"machine": machine(), "rows": rows}))


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
