"""Where a run begins: which weights, and after how many finished steps.

The server's count of acknowledged steps decides, so no batch is ever trained on twice. Where the newest checkpoint is
as new, the run goes on exactly. Where steps were acknowledged after it, their float32 weights are lost but their
published version is not: it is loaded, with the checkpoint's optimiser state, and the difference is one rounding.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from clients.wire import PolicyList, PolicyView, RunView
from learner.checkpoint import load_checkpoint, newest_checkpoint
from learner.model import Policy, load_policy
from learner.step import Trainer

log = logging.getLogger(__name__)


def load_start(run: RunView, policies: PolicyList, device: torch.device) -> Policy:
    """Load the weights that the run began with: its first version, or the head as long as it has none."""
    versions = {p.version: p for p in policies.data}
    head = next(p for p in policies.data if p.head)
    start = head if run.first_version is None else versions[run.first_version]
    full = full_weights_under(start, versions)
    adapter = Path(start.path) if start.kind == "adapter" else None
    for path in (Path(full.path), Path(start.path)):
        if not path.is_dir():
            raise FileNotFoundError(f"the weights that run {run.id} began with are gone: {path}")
    log.info("run %s begins with %s from %s", run.id, start.id, start.path)
    return load_policy(Path(full.path), adapter, run.config, device)


def full_weights_under(version: PolicyView, versions: dict[int, PolicyView]) -> PolicyView:
    """Return the version itself, or the full weights that an adapter lies on: its first ancestor of that kind.

    Raises:
        LookupError: an ancestor is not listed.
    """
    while version.kind == "adapter":
        if version.parent is None or version.parent not in versions:
            raise LookupError(f"adapter {version.id} has no listed parent with full weights")
        version = versions[version.parent]
    return version


def resume(trainer: Trainer, run: RunView, policies: PolicyList, checkpoints: Path) -> int:
    """Bring the trainer to the state after the run's acknowledged steps; return their number."""
    checkpoint = newest_checkpoint(checkpoints, run.step)
    if checkpoint is not None and checkpoint[0] == run.step:
        load_checkpoint(trainer, checkpoint[1])
        log.info("run %s goes on exactly after step %d", run.id, run.step)
        return run.step
    if checkpoint is not None:
        load_checkpoint(trainer, checkpoint[1])
    unseen = range(0 if checkpoint is None else checkpoint[0], run.step)
    published = [p for p in policies.data if p.run_id == run.id and p.step in unseen]
    if published:
        newest = max(published, key=lambda p: p.version)
        trainer.policy.load_published(Path(newest.path))
        log.info("run %s goes on after step %d from %s", run.id, run.step, newest.id)
    return run.step
