"""The stages of the demo: evaluate, train with SFT, evaluate, train with GRPO, evaluate."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from clients.demo import plan
from clients.demo.machine import machine
from clients.demo.progress import step_text
from clients.demo.report import Stage, gains, interval, plot, rows, table
from upturn.client import Client
from upturn.command.progress import ProgressLine, follow_run, play_text
from upturn.wire import PlayView, RunConfig, RunRequest, RunView


@dataclass(frozen=True, slots=True)
class Options:
    """The stages' options on the command line."""

    model: str
    sft_steps: int
    rl_steps: int
    goals: int
    per_goal: int
    seed: int


class Tour:
    """One demo on one server.

    Args:
        client: the server's client.
        options: number of steps, goals and episodes.
        kind: `full` or `adapter`: what is trained.
        progress: shows plays and runs.
    """

    def __init__(self, client: Client, options: Options, kind: str, progress: ProgressLine) -> None:
        self._client = client
        self._options = options
        self._kind = kind
        self._progress = progress
        self._train = plan.of_depths(client.tasks(plan.ENVIRONMENT, "train").tasks)
        self._test = plan.of_depths(client.tasks(plan.ENVIRONMENT, "test").tasks)[: options.goals]
        self.stages: list[Stage] = []
        self.runs: list[RunView] = []

    def evaluate(self, name: str, per_goal: int) -> Stage:
        """Play the held-out goals with the version that currently serves, `per_goal` episodes each."""
        version = next(p for p in self._client.policies().data if p.head).version
        request = plan.evaluation(self._test, per_goal)
        self._progress.say(
            f"evaluate {name} (version {version}): {len(self._test)} held-out goals x "
            f"{request.group_size}, horizon {request.horizon}"
        )
        view = self._client.wait_for_play(
            self._client.start_play(request).id, on_progress=lambda play: self._progress.show(f"  {play_text(play)}")
        )
        require_done(view)
        stage = Stage(name, version, view)
        self._progress.say(
            f"  {view.success_rate:.1%} of {view.finished} episodes reached their goal ({view.wall_s:.0f} s)"
        )
        self.stages.append(stage)
        return stage

    def train(self, name: str, config: RunConfig) -> RunView:
        """Train one run and show its steps; return the run."""
        run = self._client.create_run(RunRequest(config=config, trigger="demo"))
        self._progress.say(f"{name}: run {run.id}, {config.steps} steps")
        run = follow_run(self._client, run.id, self._progress, step_text)
        if run.state != "done":
            raise RuntimeError(f"run {run.id} {run.state}: {run.reason}")
        self._progress.say(f"  {run.reason}")
        self.runs.append(run)
        return run

    def go(self) -> None:
        """Run all stages."""
        options, tasks = self._options, self._train
        self.evaluate(
            "base", min(options.per_goal, plan.BASE_EVALUATIONS_PER_GOAL) if options.sft_steps else options.per_goal
        )
        if options.sft_steps:
            self.train(
                "SFT on episodes of the environment's solver, other goals",
                plan.supervised(tasks, options.sft_steps, self._kind, options.seed),
            )
            self.evaluate("after SFT", options.per_goal)
        self.train(
            "GRPO, stepwise horizon " + " then ".join(map(str, plan.ROUNDS)),
            plan.reinforcement(tasks, options.rl_steps, self._kind, options.seed),
        )
        self.evaluate("after RL", options.per_goal)

    def report(self, data_dir: Path, wall_s: float) -> dict[str, object]:
        """Print tables and draw the plot; return the figures of the final JSON line."""
        policies = self._client.policies().data
        trained = rows(self.runs[-1], policies)
        base, before, after = self.stages[0], self.stages[-2], self.stages[-1]
        low, high = interval(gains(before.play, after.play))
        picture = data_dir / "demo.png"
        plot(trained, self.stages, picture, f"{self._options.model}, {plan.ENVIRONMENT}, GRPO")
        print(f"\n{table(trained, self.stages)}\n")
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
            "model": self._options.model,
            "weights": self._kind,
            "machine": machine(),
        }


def require_done(view: PlayView) -> None:
    """Raise unless a play succeeded: figures of a failed play mean nothing."""
    if view.state != "done" or view.errors:
        raise RuntimeError(f"play {view.id} {view.state}, {view.errors} failed episodes: {view.error}")
