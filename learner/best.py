"""The best version of a run: found from the recorded steps, kept on disk, served again where a guard stops the run.

What a step recorded judges the version that played it, which is the one published before. A version's success is the
mean of the `best_window` steps up to that one; a single batch says too little.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from upturn.wire import RunStep


@dataclass(frozen=True)
class Best:
    """The version whose episodes went best."""

    step: int
    """Learner step that it played last."""
    version: int | None
    """None is the version that the run began with."""
    success: float
    """Mean success of the window, or mean reward where nothing says what success is."""


def best_of(recorded: Sequence[RunStep], window: int) -> Best | None:
    """Return the best of the run's versions, the first among equals; None before a window is full.

    Args:
        recorded: the run's finished steps, oldest first.
        window: learner steps that a mean is taken over.
    """
    best: Best | None = None
    version: int | None = None
    figures: list[float] = []
    for step in recorded:
        figures += [step.metrics[name] for name in ("success_rate", "mean_reward") if name in step.metrics][:1]
        mean = fmean(figures[-window:]) if figures else 0.0
        if len(figures) >= window and (best is None or mean > best.success):
            best = Best(step.step, version, mean)
        version = step.policy_version if step.policy_version is not None else version
    return best


def keep(version: Path, kept: Path) -> None:
    """Keep a published version's files under `kept`, whatever the server deletes later; by links where there are any.

    Args:
        version: directory of the version.
        kept: directory that holds the run's best; replaced as a whole.
    """
    unfinished = kept.with_name(f"{kept.name}.part")
    for stale in (unfinished, kept):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.copytree(version, unfinished, copy_function=_link)
    os.replace(unfinished, kept)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
