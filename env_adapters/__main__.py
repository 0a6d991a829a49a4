"""`python -m env_adapters`: list environments and their tasks, play one here, or host them for other machines."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import statistics
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError as error:  # Such as with the system's Python.
    sys.exit(f"python -m env_adapters: {error}: run it with .venv/bin/python, which `python3 run.py setup` makes")

from env_adapters.hosting.host import Host
from env_adapters.play import ChatModel, Oracle, Played, Player, RandomPlayer, play
from env_adapters.protocol import EnvironmentFailure, EnvironmentSpec, UnknownTask
from env_adapters.registry import REGISTRY, environment_spec
from upturn import logs
from upturn.command.failure import explain
from upturn.command.run import OPTIONS, options, run

STOP_S = 5.0
"""How long a stopping host waits for its instances to close."""
PROGRAM = "python -m env_adapters"
app = typer.Typer(
    name=PROGRAM,
    help="List environments and their tasks, play one here, or host them for servers on other machines.",
    epilog="Environments of your own: docs/environments.md.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=OPTIONS,
)
app.callback(invoke_without_command=True)(options)
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--module",
        metavar="PACKAGE.MODULE",
        help="Add an environment of your own: a module with make_spec(). Repeatable.",
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Environment, such as textcraft or gymnasium:CartPole-v1.")]


class Policy(StrEnum):
    """Who plays."""

    ORACLE = "oracle"
    RANDOM = "random"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class Model:
    """The model of `--policy openai`."""

    base_url: str
    name: str
    key: str
    tools: bool


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code: 1 for a failure, 2 for wrong usage."""
    logs.configure()
    return run(app, arguments, PROGRAM, "upturn-server", _explain)


def _explain(error: BaseException) -> str | None:
    if isinstance(error, ModuleNotFoundError):
        return explain(error)
    if isinstance(error, UnknownTask | EnvironmentFailure | ImportError | ValueError):
        return str(error.args[0]) if error.args else repr(error)
    return explain(error)


@app.command("list")
def list_environments(module: Modules = None) -> None:
    """List environments, their tasks, and what to install for them."""
    REGISTRY.add_modules(module or [])
    for name in REGISTRY.names():
        try:
            spec = environment_spec(name)
            tasks = ", ".join(f"{len(spec.tasks(split))} {split}" for split in spec.splits())
        except (EnvironmentFailure, ImportError) as error:
            print(f"{name:<12} cannot be loaded: {error}")
            continue
        print(f"{name:<12} {spec.isolation:<7} {tasks:<24} {spec.description}")
        if (missing := spec.missing()) is not None:
            print(f"{'':<12} needs: {missing}")
    for name in REGISTRY.parametric():
        print(f"{name + ':ID':<12} takes an argument after the colon")


@app.command("tasks")
def list_tasks(
    name: Name,
    split: Annotated[str, typer.Option(help="Split, usually train or test.")] = "train",
    module: Modules = None,
) -> None:
    """Print the names of an environment's tasks, one per line."""
    REGISTRY.add_modules(module or [])
    for task in environment_spec(name).tasks(split):
        print(task)


@app.command("play")
def play_episodes(
    name: Name,
    task: Annotated[str | None, typer.Option(help="Task to play. Default: tasks spread evenly over the split.")] = None,
    split: Annotated[str, typer.Option(help="Split that tasks are taken from.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the first episode; further episodes count up from it.")] = 0,
    episodes: Annotated[int, typer.Option(metavar="K", help="Number of episodes.")] = 1,
    horizon: Annotated[int, typer.Option(metavar="N", help="Maximum number of steps per episode.")] = 50,
    policy: Annotated[
        Policy,
        typer.Option(help="The environment's own solver, a random player, or a model at --base-url."),
    ] = Policy.ORACLE,
    base_url: Annotated[str, typer.Option(help="With openai: URL of the API.")] = "http://127.0.0.1:8000/v1",
    model: Annotated[str, typer.Option(help="With openai: name of the model.")] = "policy",
    key: Annotated[
        str, typer.Option(envvar="OPENAI_API_KEY", show_default=False, help="With openai: API key.")
    ] = "any",
    tools: Annotated[bool, typer.Option("--tools", help="With openai: offer the actions as tools.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a transcript.")] = False,
    module: Modules = None,
) -> None:
    """Play episodes and print the transcript."""
    REGISTRY.add_modules(module or [])
    spec = environment_spec(name)
    if (missing := spec.missing()) is not None:
        print(f"{name} needs: {missing}", file=sys.stderr)
        raise typer.Exit(1)
    tell = (lambda _: None) if as_json else print
    chat = Model(base_url, model, key, tools)
    played = []
    try:
        for episode, chosen in enumerate(_chosen_tasks(spec, task, split, episodes)):
            tell(f"== {name} {chosen} seed {seed + episode}")
            with closing(_player(policy, spec, chat, f"{name}/{chosen}/{seed + episode}")) as player:
                played.append(play(spec, chosen, seed + episode, player, horizon, tell))
    except NotImplementedError as error:
        lacks = "has no solver" if policy is Policy.ORACLE else "does not list its actions"
        other = Policy.RANDOM if policy is Policy.ORACLE else Policy.OPENAI
        print(f"{name} {lacks}: try --policy {other.value}", file=sys.stderr)
        raise typer.Exit(1) from error
    summary = _summary(played)
    if as_json:
        print(json.dumps({**summary, "played": [asdict(one) for one in played]}))
    elif len(played) > 1:
        print(
            f"== {summary['success']:.1%} success, mean reward {summary['mean_reward']:.3f}, "
            f"median {summary['median_steps']:g} steps, {len(played)} episodes"
        )


@app.command("serve")
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8200,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a secret that callers must send; required unless on loopback.")
    ] = None,
    module: Modules = None,
) -> None:
    """Run environments for servers on other machines."""
    REGISTRY.add_modules(module or [])
    token = token_file.read_text().strip() if token_file else None
    if not token and not _is_loopback(host):
        print(f"{host} is reachable from other machines: give --token-file", file=sys.stderr)
        raise typer.Exit(2)
    asyncio.run(_serve(host, port, token or None))


def _chosen_tasks(spec: EnvironmentSpec, task: str | None, split: str, episodes: int) -> list[str]:
    if task is not None:
        return [task] * episodes
    tasks = spec.tasks(split)
    return [tasks[number * len(tasks) // episodes % len(tasks)] for number in range(episodes)]


def _player(policy: Policy, spec: EnvironmentSpec, model: Model, seed: str) -> Player:
    if policy is Policy.OPENAI:
        return ChatModel(model.base_url, model.name, model.key, spec.tools if model.tools else [])
    return Oracle() if policy is Policy.ORACLE else RandomPlayer(seed)


def _summary(played: list[Played]) -> dict[str, float]:
    return {
        "episodes": len(played),
        "success": statistics.mean(float(one.success) for one in played),
        "mean_reward": statistics.mean(one.reward for one in played),
        "median_steps": statistics.median(one.steps for one in played),
    }


async def _serve(address: str, port: int, token: str | None) -> None:
    host, stopped = Host(token), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    port = await host.start(address, port)
    print(f"env_adapters: {address}:{port}", flush=True)
    # Nothing reads stdout after the first line, and what environments print quotes observations and actions.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
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
    sys.exit(main(sys.argv[1:]))
