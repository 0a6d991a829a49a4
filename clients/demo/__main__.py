"""`upturn demo`: serve a small model, play, train while serving, and show whether the model improved.

`python3 run.py demo` installs the packages before.

    base model ── evaluate ── SFT on the solver's episodes ── evaluate ── GRPO under a growing horizon ── evaluate

Every stage is a run or play recorded by the server in `--data-dir`; every printed number comes from its database.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from enum import StrEnum
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Annotated

try:
    import typer
except ModuleNotFoundError as error:  # Such as with the system's Python.
    sys.exit(f"python -m clients.demo: {error}: run it with .venv/bin/python, which `python3 run.py setup` makes")

from clients.demo import plan
from clients.demo.machine import machine
from clients.demo.progress import make_progress
from clients.demo.server_process import ServerProcess, free_port
from clients.demo.tour import Options, Tour
from upturn.client import Client
from upturn.command.examples import examples
from upturn.command.run import OPTIONS, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=OPTIONS)
"""One command, which is also `upturn demo`."""

DEFAULT_MODEL = "smollm2-135m-instruct"


class Engine(StrEnum):
    """Engines that have a model to train."""

    auto = "auto"
    vllm = "vllm"
    local = "local"


class Dtype(StrEnum):
    """Data types of the computation."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float32 = "float32"


class Weights(StrEnum):
    """Kinds of published weights."""

    auto = "auto"
    full = "full"
    adapter = "adapter"


@app.command(
    rich_help_panel="Server", epilog=examples("upturn demo", "upturn demo --rl-steps 5 --goals 8", "upturn demo --keep")
)
def demo(
    model: Annotated[
        str, typer.Option(help="Base model: a name on the hub or a directory; the default comes from a PyPI package.")
    ] = DEFAULT_MODEL,
    engine: Annotated[Engine, typer.Option(help="Engine that samples the answers.")] = Engine.auto,
    dtype: Annotated[
        Dtype,
        typer.Option(help="Data type in which engine and learner compute; auto: bfloat16 if the hardware has it."),
    ] = Dtype.auto,
    weights: Annotated[
        Weights, typer.Option(help="What is trained and swapped; auto: full weights on a CPU, adapters on a GPU.")
    ] = Weights.auto,
    sft_steps: Annotated[int, typer.Option(min=0, help="Steps of the supervised stage; 0 skips it.")] = plan.SFT_STEPS,
    rl_steps: Annotated[int, typer.Option(min=1, help="Steps of the RL stage.")] = plan.RL_STEPS,
    goals: Annotated[int, typer.Option(min=1, help="Maximum number of held-out goals to evaluate on.")] = 1000,
    per_goal: Annotated[int, typer.Option(min=1, help="Episodes per goal.")] = plan.EVALUATIONS_PER_GOAL,
    seed: Annotated[int, typer.Option(min=0, help="Seed of task order and training.")] = 0,
    port: Annotated[int, typer.Option(help="Port of the server; 0 picks a free one.")] = 0,
    data_dir: Annotated[
        Path | None, typer.Option(help="Database, weights and logs; default: a new folder under data/.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the server running at the end, until Ctrl-C.")] = False,
) -> int:
    """Serve a small model, play, train it while serving, and show whether it improved."""
    folder = data_dir.absolute() if data_dir else new_folder(Path("data").absolute())
    progress = make_progress()
    models = Path("data/models").absolute()
    flags = [
        *(f"--{name}={value}" for name, value in _choices(model, engine, weights, dtype).items()),
        f"--models-dir={models}",
        "--engine.context-tokens=1024",
        "--engine.max-concurrent=64",
    ]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    began = time.monotonic()
    progress.say(f"starting the server ({model}) on {machine()}; data in {folder}")
    try:
        with (
            ServerProcess(
                folder,
                port or free_port(),
                flags,
                lambda waited, doing: progress.show(f"  starting, {waited:.0f} s: {doing}"),
            ) as server,
            Client(server.url) as client,
        ):
            progress.say(f"serving at {server.url}/v1, log {server.log}; watch it at {server.url}/ui/")
            ready = client.ready()
            progress.say(f"{ready.placement}")
            options = Options(model, sft_steps, rl_steps, goals, per_goal, seed)
            tour = Tour(client, options, ready.weights, progress)
            tour.go()
            facts = tour.report(folder, time.monotonic() - began)
            (folder / "demo.json").write_text(json.dumps(facts, indent=2) + "\n")
            print(json.dumps(facts))
            serve = {"data-dir": str(folder), "models-dir": str(models), **_choices(model, engine, weights, dtype)}
            print(f"\nepisodes, weights, logs, figures: {folder}")
            print("serve the trained model:          " + _serve_command(serve))
            print("what was done, and what is next:  docs/demo.md, README.md (Use it)", flush=True)
            if keep:
                print(
                    f"the server keeps running at {server.url} (API: /v1, model: policy); Ctrl-C stops it", flush=True
                )
                signal.pause()
    except KeyboardInterrupt:
        print(f"\nstopped; everything recorded so far is in {folder}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def new_folder(parent: Path) -> Path:
    """Make and return a new folder, named by the time; demos that start in the same second get different ones."""
    name = time.strftime("demo-%Y%m%d-%H%M%S")
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("count() does not end")


def _choices(model: str, engine: Engine, weights: Weights, dtype: Dtype) -> dict[str, str]:
    """Return the options that differ from the server's defaults, by setting."""
    chosen = {"model": model, "engine.kind": engine.value, "engine.dtype": dtype.value, "weights": weights.value}
    return {name: value for name, value in chosen.items() if value not in ("auto", DEFAULT_MODEL)}


def _serve_command(options: dict[str, str]) -> str:
    """Return the command that serves what the demo trained; paths are relative to the project if they can be."""
    short = {name: value.removeprefix(f"{Path.cwd()}{os.sep}") for name, value in options.items()}
    return shlex.join(["python3", "run.py", "serve", *(f"--{name}={value}" for name, value in short.items())])


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run(app, sys.argv[1:], "run.py demo"))
