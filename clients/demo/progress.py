"""The demo's lines: each begins with the seconds since the start."""

from __future__ import annotations

import math
import sys
import time

from upturn.command.progress import ProgressLine
from upturn.outcome import nothing_to_learn
from upturn.wire import RunStep, RunView


def make_progress() -> ProgressLine:
    """Return a writer to standard output."""
    began = time.monotonic()
    return ProgressLine(sys.stdout, lambda: f"[{time.monotonic() - began:6.1f} s] ")


def step_text(run: RunView, step: RunStep) -> str:
    """Return the results of a learner step in one line."""
    metrics = step.metrics
    figures = [
        f"{word} {metrics[name] * scale:{form}}{unit}"
        for word, name, scale, form, unit in (
            ("success", "success_rate", 100, "5.1f", "%"),
            ("loss", "loss", 1, "7.4f", ""),
            ("played", "lease_s", 1, "5.1f", " s"),
            ("trained", "train_s", 1, "5.1f", " s"),
        )
        if math.isfinite(metrics.get(name, math.nan))
    ]
    why = nothing_to_learn(metrics)
    end = f"version {step.policy_version}" if why is None else f"nothing to learn: {why}"
    return "  ".join([f"  step {step.step + 1:>2}/{run.config.steps}", f"horizon {step.horizon:>2}", *figures, end])
