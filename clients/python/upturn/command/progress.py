"""Progress of plays and runs: one line that a terminal rewrites, or a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

from upturn.client import Client
from upturn.wire import PlayView, RunStep, RunView

if TYPE_CHECKING:
    from rich.status import Status

EVERY_S = 10.0
"""Longest silence without a terminal."""
POLL_S = 1.0
FIRST_SHARE = 0.05
"""Share of a play's episodes after which their rate predicts the rest: episodes run side by side and end in waves."""
WIDTH = 24
"""Characters of the bar."""


class ProgressLine:
    """Writes progress to a stream.

    Args:
        stream: where to write.
        prefix: returns the beginning of each line.
        clock: returns seconds that only increase.
    """

    def __init__(
        self, stream: TextIO, prefix: Callable[[], str] = lambda: "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._prefix, self._clock = stream, prefix, clock
        self._terminal = stream.isatty()
        self._wrote_at = clock()
        self._open = False

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self.end()
        self._write(f"{self._prefix()}{text}\n")

    def show(self, text: str) -> None:
        """Write a line that the next one replaces; without a terminal, at most one every `EVERY_S` seconds."""
        if self._terminal:
            self._write(f"\r\033[K{self._prefix()}{text}")
            self._open = True
        elif self._clock() - self._wrote_at >= EVERY_S:
            self.say(text)

    def end(self) -> None:
        """Remove a line that would be replaced."""
        if self._open:
            self._write("\r\033[K")
            self._open = False

    def _write(self, text: str) -> None:
        self._wrote_at = self._clock()
        self._stream.write(text)
        self._stream.flush()


class RichLine(ProgressLine):
    """Writes progress to a terminal by rich: a spinner turns while nothing is new."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        super().__init__(stream)
        self._console = Console(file=stream, highlight=False)
        self._status: Status | None = None

    def say(self, text: str) -> None:
        """Write a line that stays, above the spinner."""
        self._console.print(text, markup=False, soft_wrap=True)

    def show(self, text: str) -> None:
        """Write a line that the next one replaces."""
        from rich.text import Text

        if self._status is None:
            self._status = self._console.status(Text(text))
            self._status.start()
        else:
            self._status.update(Text(text))

    def end(self) -> None:
        """Remove the spinner's line."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def progress_line(stream: TextIO) -> ProgressLine:
    """Return a writer of progress: by rich on a terminal where rich is installed."""
    return RichLine(stream) if stream.isatty() and find_spec("rich") is not None else ProgressLine(stream)


def play_text(view: PlayView) -> str:
    """Return a running play's progress: a bar, episodes done, their rate, and the time that the rest will take."""
    done = WIDTH * view.finished // max(1, view.episodes)
    bar = f"[{'#' * done}{'.' * (WIDTH - done)}] {view.finished}/{view.episodes} episodes"
    if view.finished < FIRST_SHARE * view.episodes or view.wall_s <= 0:
        return f"{bar}, {view.sampled_tokens} tokens"
    rate = view.finished / view.wall_s
    left = duration((view.episodes - view.finished) / rate)
    return f"{bar}, {view.succeeded} succeeded, {rate:.2g}/s, about {left} left"


def follow_run(
    client: Client, run_id: str, line: ProgressLine, step_text: Callable[[RunView, RunStep], str]
) -> RunView:
    """Show a run's progress, and each of its steps as it ends; return the run when it is not queued or running.

    Args:
        client: the server's client.
        run_id: the run.
        line: where to write.
        step_text: describes a finished step.
    """
    try:
        return _follow(client, run_id, line, step_text)
    finally:
        line.end()


def _follow(client: Client, run_id: str, line: ProgressLine, step_text: Callable[[RunView, RunStep], str]) -> RunView:
    shown, first, pace = 0, None, Pace()
    while True:
        run = client.run(run_id)
        for step in run.steps[shown:]:
            line.say(step_text(run, step))
        shown = len(run.steps)
        if run.state not in ("queued", "running"):
            return run
        if run.state == "running":
            first = run.step if first is None else first
            line.show(_run_text(client, run, pace.left(run.step - first, run.config.steps - run.step)))
        else:
            line.show("  waiting until a learner has started")
        time.sleep(POLL_S)


class Pace:
    """Estimates when steps will be done, from the time that the observed ones took."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._done, self._ended_at = 0, self._began

    def left(self, done: int, to_do: int) -> float | None:
        """Return the seconds until `to_do` further steps are done; None before the first observed step.

        Args:
            done: steps done since the observation began.
            to_do: steps left.
        """
        if done != self._done:
            self._done, self._ended_at = done, self._clock()
        if not done:
            return None
        in_progress_s = self._clock() - self._ended_at
        return max(0.0, to_do * (self._ended_at - self._began) / done - in_progress_s)


def duration(seconds: float) -> str:
    """Return seconds in words: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _run_text(client: Client, run: RunView, left_s: float | None) -> str:
    doing = "training" if run.play_id is None else f"playing {play_text(client.play(run.play_id))}"
    left = "" if left_s is None else f"; all steps in about {duration(left_s)}"
    return f"  step {run.step + 1}/{run.config.steps}: {doing}{left}"
