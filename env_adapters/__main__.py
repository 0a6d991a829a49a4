"""`python -m env_adapters`: list environments and their tasks, play one here, or serve them to servers elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import os
import signal
import statistics
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from env_adapters import family, kinds, names, register_modules
from env_adapters.hosting.host import Host
from env_adapters.play import ChatModel, Oracle, Played, Player, RandomPlayer, play
from env_adapters.protocol import EnvironmentFailure, Family, UnknownTask

STOP_S = 5.0
"""How long a host that was told to stop may take to close its instances."""


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        register_modules(chosen.module)
        status: int = chosen.run(chosen)
        return status
    except (UnknownTask, EnvironmentFailure, ImportError, ValueError) as error:
        print(error.args[0] if error.args else repr(error), file=sys.stderr)
        return 1
    except NotImplementedError:
        print(f"{chosen.name} has no solver: try --policy random", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m env_adapters", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="PACKAGE.MODULE",
        help="an environment of your own, see docs/environments.md; may be given several times",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", parents=[common], help="what there is, and what has to be installed for it")
    listing.set_defaults(run=_list)

    tasks = commands.add_parser("tasks", parents=[common], help="names of an environment's tasks, one a line")
    tasks.add_argument("name", help="such as textcraft")
    tasks.add_argument("--split", default="train", help="train or test; default %(default)s")
    tasks.set_defaults(run=_tasks)

    player = commands.add_parser("play", parents=[common], help="play episodes and print what was said and done")
    player.add_argument("name", help="such as textcraft")
    player.add_argument("--task", help="its name; default: tasks spread over the split")
    player.add_argument("--split", default="train", help="where tasks come from; default %(default)s")
    player.add_argument("--seed", type=int, default=0, help="of the first episode; the others count up from it")
    player.add_argument("--episodes", type=int, default=1, metavar="K", help="how many; default %(default)s")
    player.add_argument("--horizon", type=int, default=50, metavar="N", help="most steps of one; default %(default)s")
    player.add_argument(
        "--policy",
        choices=["oracle", "random", "openai"],
        default="oracle",
        help="the environment's own solver (the default), a random player, or a model by --base-url",
    )
    player.add_argument("--base-url", default="http://127.0.0.1:8000/v1", help="of openai; default %(default)s")
    player.add_argument("--model", default="policy", help="of openai; default %(default)s")
    player.add_argument(
        "--key", default=os.environ.get("OPENAI_API_KEY", "any"), help="of openai; default: OPENAI_API_KEY"
    )
    player.add_argument("--tools", action="store_true", help="openai: offer the actions as tools")
    player.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    player.set_defaults(run=_play)

    serve = commands.add_parser("serve", parents=[common], help="run environments for servers on other machines")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; default %(default)s")
    serve.add_argument("--port", type=int, default=8200, help="0 takes a free one; default %(default)s")
    serve.add_argument("--token-file", type=Path, help="a secret that callers must know; required unless on loopback")
    serve.set_defaults(run=_serve)
    return parser


def _list(chosen: argparse.Namespace) -> int:
    for name in names():
        try:
            found = family(name)
            tasks = ", ".join(f"{len(found.tasks(split))} {split}" for split in found.splits())
        except (EnvironmentFailure, ImportError) as error:
            print(f"{name:<12} cannot be loaded: {error}")
            continue
        print(f"{name:<12} {found.isolation:<7} {tasks:<24} {found.description}")
        if (missing := found.missing()) is not None:
            print(f"{'':<12} needs: {missing}")
    for kind in kinds():
        print(f"{kind + ':ID':<12} takes an argument after the colon")
    return 0


def _tasks(chosen: argparse.Namespace) -> int:
    for task in family(chosen.name).tasks(chosen.split):
        print(task)
    return 0


def _play(chosen: argparse.Namespace) -> int:
    found = family(chosen.name)
    if (missing := found.missing()) is not None:
        print(f"{chosen.name} needs: {missing}", file=sys.stderr)
        return 1
    tell = (lambda _: None) if chosen.json else print
    played = []
    for episode, task in enumerate(_chosen_tasks(found, chosen)):
        seed = chosen.seed + episode
        tell(f"== {chosen.name} {task} seed {seed}")
        with closing(_player(found, chosen, f"{chosen.name}/{task}/{seed}")) as player:
            played.append(play(found, task, seed, player, chosen.horizon, tell))
    summary = _summary(played)
    if chosen.json:
        print(json.dumps({**summary, "played": [asdict(one) for one in played]}))
    elif len(played) > 1:
        print(
            f"== {summary['success']:.1%} success, mean reward {summary['mean_reward']:.3f}, "
            f"median {summary['median_steps']:g} steps, {len(played)} episodes"
        )
    return 0


def _chosen_tasks(found: Family, chosen: argparse.Namespace) -> list[str]:
    if chosen.task is not None:
        return [chosen.task] * chosen.episodes
    tasks = found.tasks(chosen.split)
    return [tasks[number * len(tasks) // chosen.episodes % len(tasks)] for number in range(chosen.episodes)]


def _player(found: Family, chosen: argparse.Namespace, seed: str) -> Player:
    if chosen.policy == "openai":
        return ChatModel(chosen.base_url, chosen.model, chosen.key, found.tools if chosen.tools else [])
    return Oracle() if chosen.policy == "oracle" else RandomPlayer(seed)


def _summary(played: list[Played]) -> dict[str, float]:
    return {
        "episodes": len(played),
        "success": statistics.mean(float(one.success) for one in played),
        "mean_reward": statistics.mean(one.reward for one in played),
        "median_steps": statistics.median(one.steps for one in played),
    }


def _serve(chosen: argparse.Namespace) -> int:
    token = chosen.token_file.read_text().strip() if chosen.token_file else None
    if not token and not _is_loopback(chosen.host):
        print(f"{chosen.host} can be reached from other machines: give --token-file", file=sys.stderr)
        return 2
    asyncio.run(_serving(chosen.host, chosen.port, token or None))
    return 0


async def _serving(address: str, port: int, token: str | None) -> None:
    host, stopped = Host(token), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    port = await host.start(address, port)
    print(f"env_adapters: {address}:{port}", flush=True)
    os.dup2(2, 1)  # What environments print is for the log: nobody reads on here.
    await stopped.wait()
    try:
        await asyncio.wait_for(host.close(), STOP_S)
    except TimeoutError:
        print("some instances did not close in time", file=sys.stderr)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # `| head` has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
