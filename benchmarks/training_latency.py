"""Cost of a training run for clients being served: pauses between tokens, duration of an answer.

    .venv/bin/python benchmarks/training_latency.py [--quick] [--model NAME] [--at-once N] [--steps N]

The unmodified `python -m server serve` with its own learner and a real vLLM; a few continuous streams. First serving
alone, then an SFT run on a solver's episodes (only the learner is added), then a GRPO run that also plays its episodes
on the same engine. Both runs swap full weights after each step.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.hot_swap import SMALL
from benchmarks.support.swap_load import Observed, quantile, streams
from clients.demo import plan
from clients.demo.machine import machine
from clients.demo.server_process import ServerProcess, free_port
from server.models.source import resolve_model
from tests.support.tiny_model import make_tiny_model
from upturn.client import Client
from upturn.wire import RunConfig, RunRequest, RunView

TOKENS = 64
QUIET_S = 40.0


async def until(client: Client, run: RunView, *states: str) -> RunView:
    """Wait until a run reaches a state; a failed run ends the benchmark."""
    while run.state not in states:
        if run.state in ("failed", "cancelled"):
            raise SystemExit(f"the run {run.state}: {run.reason}")
        await asyncio.sleep(0.2)
        run = await asyncio.to_thread(client.run, run.id)
    return run


async def phase(client: Client, observed: Observed, config: RunConfig | None) -> dict[str, Any]:
    """Measure the streams from the start of a run to its end, or for a while without one."""
    failed, steps = len(observed.failed), 0
    if config is None:
        began = time.monotonic()
        await asyncio.sleep(QUIET_S)
    else:
        run = await asyncio.to_thread(client.create_run, RunRequest(config=config))
        await until(client, run, "running", "done")
        began = time.monotonic()
        steps = (await until(client, run, "done")).step
    ended = time.monotonic()
    gaps, answers = observed.all_between(began, ended), observed.answers_between(began, ended)
    return {
        "seconds": ended - began,
        "steps": steps,
        "failures": len(observed.failed) - failed,
        "answers": len(answers),
        "tokens_per_s": len(answers) * TOKENS / (ended - began),
        **{f"gap_{name}_s": quantile(gaps, share) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))},
        **{f"answer_{name}_s": quantile(answers, share) for name, share in (("p50", 0.5), ("p95", 0.95))},
    }


async def measured(arguments: argparse.Namespace, base: Path, data: Path) -> dict[str, dict[str, Any]]:
    """Measure the phases one after another on one server."""
    flags = [
        "--model",
        str(base),
        "--engine.kind",
        "vllm",
        "--weights",
        "full",
        "--engine.context-tokens",
        "1024",
        "--engine.max-concurrent",
        str(arguments.at_once + 16),
        "--learner.nice",
        str(arguments.nice),
    ]
    rows: dict[str, dict[str, Any]] = {}
    with (
        ServerProcess(data, free_port(), flags, lambda *_: None) as server,
        Client(server.url, timeout_s=600) as client,
    ):
        tasks = plan.of_depths(client.tasks(plan.ENVIRONMENT, "train").tasks)[:10]
        runs: dict[str, RunConfig | None] = {
            "serving alone": None,
            "SFT run": plan.supervised(tasks, arguments.steps, "full", 0),
            "GRPO run": plan.reinforcement(tasks, arguments.steps, "full", 0),
        }
        async with streams(server.url, "policy", arguments.at_once, TOKENS) as observed:
            for name, config in runs.items():
                print(f"  … {name}", file=sys.stderr, flush=True)
                rows[name] = await phase(client, observed, config)
                report(name, rows[name], rows["serving alone"])
        if observed.failed:
            print(f"failed: {observed.failed[:5]}")
    return rows


def report(name: str, row: dict[str, Any], alone: dict[str, Any]) -> None:
    """Print a phase, also relative to serving alone."""
    ratio = {key: row[key] / alone[key] for key in ("gap_p50_s", "gap_p99_s", "answer_p50_s", "tokens_per_s")}
    print(
        f"{name:<14} {row['seconds']:5.0f} s, {row['steps']} steps, {row['answers']} answers, {row['failures']} "
        f"failed: pause between tokens p50 {1000 * row['gap_p50_s']:.0f}, p99 {1000 * row['gap_p99_s']:.0f}, longest "
        f"{1000 * row['gap_max_s']:.0f} ms; answer p50 {row['answer_p50_s']:.1f}, p95 {row['answer_p95_s']:.1f} s; "
        f"{row['tokens_per_s']:.0f} tokens/s\n{'':<14} relative to serving alone: pause p50 {ratio['gap_p50_s']:.2f}, "
        f"p99 {ratio['gap_p99_s']:.2f}, answer p50 {ratio['answer_p50_s']:.2f}, tokens/s {ratio['tokens_per_s']:.2f}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, 1 step of each run")
    parser.add_argument("--model", default=SMALL, help="a model directory or name (%(default)s)")
    parser.add_argument("--at-once", type=int, default=4, help="concurrent streams (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps per run (%(default)s)")
    parser.add_argument("--nice", type=int, default=0, help="niceness of the learner (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="upturn-training-") as name:
        folder = Path(name)
        if arguments.quick:
            arguments.model, arguments.steps, base = "tiny", 1, make_tiny_model(folder / "tiny")
        else:
            base = resolve_model(arguments.model, Path("data/models").absolute())
        print(
            f"{machine()}; model {arguments.model}, {arguments.at_once} streams, answers of {TOKENS} tokens; "
            f"learner.nice {arguments.nice}"
        )
        rows = asyncio.run(measured(arguments, base, folder / "data"))
    print(
        json.dumps(
            {
                "machine": machine(),
                "model": arguments.model,
                "at_once": arguments.at_once,
                "nice": arguments.nice,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
