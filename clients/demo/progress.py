"""Progress of plays and runs: a bar on a terminal, one line per learner step elsewhere."""

from __future__ import annotations

import math
import sys
import time

from upturn.client import Client
from upturn.wire import PlayView, RunView


class Progress:
    """Writes progress to standard output."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Write a permanent line."""
        clear = "\r\033[K" if self._terminal else ""
        print(f"{clear}[{time.monotonic() - self._began:6.1f} s] {text}", flush=True)

    def show(self, text: str) -> None:
        """Write a line that the next one overwrites; does nothing without a terminal."""
        if self._terminal:
            print(f"\r\033[K[{time.monotonic() - self._began:6.1f} s] {text}", end="", flush=True)

    def play(self, view: PlayView) -> None:
        """Show the progress of a play."""
        width = 24
        done = width * view.finished // max(1, view.episodes)
        self.show(
            f"  [{'#' * done}{'.' * (width - done)}] {view.finished}/{view.episodes} episodes, "
            f"{view.succeeded} reached the goal, {view.sampled_tokens} tokens"
        )


def follow(client: Client, run_id: str, progress: Progress, wait_s: float = 1.0) -> RunView:
    """Show a run's learner steps as they end; return the run when it has ended."""
    shown = 0
    began = time.monotonic()
    while True:
        run = client.run(run_id)
        while shown < len(run.steps):
            progress.say(_line(run, shown))
            shown += 1
            began = time.monotonic()
        if run.state not in ("queued", "running"):
            return run
        progress.show(f"  step {run.step}/{run.config.steps} ... {time.monotonic() - began:.0f} s")
        time.sleep(wait_s)


def _line(run: RunView, position: int) -> str:
    step = run.steps[position]
    version = "nothing to learn" if step.policy_version is None else f"version {step.policy_version}"
    success, loss, played, trained = (
        step.metrics.get(name, math.nan) for name in ("success_rate", "loss", "lease_s", "train_s")
    )
    return (
        f"  step {step.step + 1:>2}/{run.config.steps}  horizon {step.horizon:>2}  success {success:6.1%}"
        f"  loss {loss:7.4f}  played {played:5.1f} s  trained {trained:5.1f} s  {version}"
    )
