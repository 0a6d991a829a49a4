"""Where a run begins or continues: from which weights, and after how many finished steps.

The server's count of acknowledged steps decides. If the newest checkpoint is from the last of them, the run continues
exactly. Steps that were acknowledged after the checkpoint are computed again on their recorded batches without
publishing, which leads to the state of a run that never stopped. If that is impossible because an episode was erased,
the newest published version is loaded, with the optimizer's state from the checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from learner.model.load import load_policy
from learner.model.policy import Policy
from learner.parallel import distributed
from learner.state.checkpoint import load_checkpoint, newest_checkpoint
from learner.step import Trainer
from upturn.client import UpturnAPIError
from upturn.wire import BatchView, PolicyList, PolicyView, RunView

log = logging.getLogger(__name__)


def load_start(run: RunView, policies: PolicyList, device: torch.device, *, any_weights: bool = False) -> Policy:
    """Load the weights that the run began with: its first version, or head if it has no first version yet.

    The server may delete those weights later, so files next to full weights are always taken from the base model.

    Args:
        run: the run.
        policies: all versions.
        device: the device to train on.
        any_weights: take the full weights under them if they were deleted: a checkpoint replaces them.

    Raises:
        FileNotFoundError: the version's weights were deleted.
        LookupError: an adapter has no listed ancestor with full weights.
    """
    versions = {p.version: p for p in policies.data}
    head = next(p for p in policies.data if p.head)
    start = head if run.first_version is None else versions[run.first_version]
    full = full_weights_under(start, versions)
    base = next(p for p in policies.data if p.kind == "base")
    if any_weights and not Path(start.path).is_dir():
        start = full = base
    adapter = Path(start.path) if start.kind == "adapter" else None
    for path in (Path(full.path), Path(start.path)):
        if not path.is_dir():
            raise FileNotFoundError(f"the weights that run {run.id} began with were deleted: {path}")
    log.info("run %s begins with %s from %s", run.id, start.id, start.path)
    policy = load_policy(Path(full.path), adapter, run.config, device, run.precision)
    if not policy.is_adapter:
        policy.directory = Path(base.path)
    return policy


def full_weights_under(version: PolicyView, versions: dict[int, PolicyView]) -> PolicyView:
    """Return the version itself, or for an adapter its base: the nearest ancestor with full weights.

    Raises:
        LookupError: an ancestor is not listed.
    """
    while version.kind == "adapter":
        if version.parent is None or version.parent not in versions:
            raise LookupError(f"adapter {version.id} has no listed parent with full weights")
        version = versions[version.parent]
    return version


def resume(
    trainer: Trainer,
    run: RunView,
    policies: PolicyList,
    checkpoints: Path,
    batch_of: Callable[[int], BatchView],
    steps: int | None = None,
) -> int:
    """Bring the trainer to the state after a run's acknowledged steps; return their number.

    Args:
        trainer: in the state with which the run began.
        run: the run with its recorded steps.
        policies: all versions.
        checkpoints: the run's directory of checkpoints.
        batch_of: returns the batch of a finished step.
        steps: number of acknowledged steps, from the first; None is all.
    """
    steps = run.step if steps is None else steps
    checkpoint = distributed.from_first(newest_checkpoint, checkpoints, steps)
    if checkpoint is not None:
        load_checkpoint(trainer, checkpoint[1])
    first = 0 if checkpoint is None else checkpoint[0]
    if not _compute_again(trainer, run, range(first, steps), batch_of):
        _take_published(trainer, run, policies, first, steps)
    elif steps:
        log.info("run %s continues exactly after step %d", run.id, steps)
    return steps


def _compute_again(trainer: Trainer, run: RunView, steps: range, batch_of: Callable[[int], BatchView]) -> bool:
    """Repeat finished steps on their recorded batches; return whether all batches were still complete.

    Nothing is published or acknowledged: the versions of these steps exist.
    """
    recorded = {s.step: s.metrics for s in run.steps}
    for step in steps:
        try:
            samples = batch_of(step).samples
        except UpturnAPIError as error:
            if error.status != 409:
                raise
            log.warning("the batch of step %d is no longer available: %s", step, error)
            return False
        result = trainer.step(samples, run.first_step + step)
        if result.metrics["trained_tokens"] != recorded[step].get("trained_tokens"):
            log.warning("the batch of step %d has lost episodes since it was trained", step)
            return False
    return True


def _take_published(trainer: Trainer, run: RunView, policies: PolicyList, first: int, steps: int) -> None:
    """Load the run's newest version, and the reference's version, if its steps cannot be computed again."""
    published = {p.step: Path(p.path) for p in policies.data if p.run_id == run.id and p.step is not None}
    missing = [step for step in published if first <= step < steps]
    if missing:
        newest = published[max(missing)]
        trainer.policy.load_published(newest)
        log.info("run %s continues after step %d from %s", run.id, steps, newest)
    reference, last = trainer.reference, run.first_step + steps - 1
    if reference is None or not steps or reference.anchor == reference.anchor_of(last):
        return
    anchor = reference.anchor_of(last) - run.first_step
    before = [step for step in published if step < anchor and published[step].is_dir()]
    if before:
        reference.set(last, trainer.policy.published_weights(published[max(before)]))
    else:
        log.warning("the reference's version was deleted: the current policy becomes the reference")
        reference.set(last, trainer.policy.snapshot())
