"""The best version of a run: found from the recorded steps, kept on disk, and served again if a guard stops the run.

A step's figures judge the version that played it, which is the version published before. A version's success is the
mean over the `best_window` steps up to that step; a single batch says too little.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from learner.parallel.distributed import from_first
from upturn.wire import RunStep


@dataclass(frozen=True)
class Best:
    """The version with the most successful episodes."""

    step: int
    """Last learner step that it played."""
    version: int | None
    """None is the version that the run began with."""
    success: float
    """Mean success rate of the window, or mean reward if the record has no success rate."""


def best_of(recorded: Sequence[RunStep], window: int) -> Best | None:
    """Return the best of the run's versions, the first among equals; None until a window is full.

    Args:
        recorded: the run's finished steps, oldest first.
        window: number of learner steps that a mean covers.
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


class KeptVersion:
    """A copy of the run's best version that survives the server's deletion of old versions.

    Process 0 alone touches the files; every process must make every call.

    Args:
        directory: holds the copy, replaced as a whole.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def exists(self) -> bool:
        """Return whether a version is kept."""
        return from_first(self.directory.is_dir)

    def replace(self, version: Path) -> None:
        """Keep a published version's files, as hard links where possible; do nothing if they are already deleted."""
        from_first(self._replace, version)

    def _replace(self, version: Path) -> None:
        if not version.is_dir():
            return
        unfinished = self.directory.with_name(f"{self.directory.name}.part")
        for stale in (unfinished, self.directory):
            shutil.rmtree(stale, ignore_errors=True)
        shutil.copytree(version, unfinished, copy_function=_link)
        os.replace(unfinished, self.directory)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
