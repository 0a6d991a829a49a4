"""Where a run begins: with published weights, or in the state in which an earlier run of its campaign ended.

That state is the earlier run's last checkpoint. If the run ended before it could write one, its last steps are computed
again on their recorded batches, as `resume.py` does for a run that was interrupted.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from learner.checks import BadInput
from learner.guards import Collapsed, RunStopped
from learner.model.acceleration import accelerate
from learner.parallel.distributed import from_first
from learner.parallel.first import FirstProcessClient
from learner.settings import LearnerSettings
from learner.state.checkpoint import forget_later, newest_checkpoint
from learner.state.resume import load_start, resume
from learner.step import Trainer
from upturn.wire import BatchView, PolicyList, RunStep, RunView

log = logging.getLogger(__name__)
KEPT_PROMOTED = 2
"""Runs behind the newest champions whose checkpoints are kept, so that the campaign can go back to them."""

BatchOf = Callable[[RunView, int], BatchView]


def begin(
    run: RunView,
    client: FirstProcessClient,
    policies: PolicyList,
    settings: LearnerSettings,
    checkpoints: Path,
    batch_of: BatchOf,
) -> Trainer:
    """Return a trainer in the state after the acknowledged steps of a run, and of the runs that it continues.

    Args:
        run: the run that this learner holds.
        client: reads earlier runs.
        policies: all versions.
        settings: the learner's settings.
        checkpoints: directory of the checkpoints of all runs.
        batch_of: returns the batch of a finished step of a run again.

    Raises:
        BadInput: checkpoints and weights of the campaign were deleted.
        Collapsed: a guard stops a step that is computed again. The campaign goes back to the state behind the champion.
    """
    from_first(forget_later, checkpoints / run.id, run.step)
    links = [(run, run.step)]
    while not (found := _has_checkpoint(checkpoints, *links[0])) and (follows := links[0][0].follows) is not None:
        links.insert(0, (client.run(follows.run_id), follows.step))
    first = links[0][0]
    try:
        policy = load_start(first, policies, settings.torch_device(), any_weights=found)
    except FileNotFoundError as error:
        if first is run:
            raise
        raise BadInput(
            f"campaign {run.config.campaign!r} cannot continue: {checkpoints} has no checkpoint of its runs, and "
            f"{error}; restore either, or name another campaign, which begins with the champion's weights"
        ) from error
    accelerate(policy, settings)
    trainer = Trainer(policy, first.config, settings.max_row_tokens)
    for each, steps in links:
        if each is not first:
            trainer.continue_with(each.config)
        try:
            resume(trainer, each, policies, checkpoints / each.id, partial(batch_of, each), steps)
        except RunStopped as stopped:  # It would stop every later night too.
            raise Collapsed(f"run {each.id} cannot be continued: computed again, {stopped}") from stopped
    if run.follows is not None:
        log.info("run %s continues after global step %d of campaign %s", run.id, run.first_step, run.config.campaign)
    return trainer


def history(run: RunView, client: FirstProcessClient) -> list[RunStep]:
    """Return the steps of the runs that a run continues, oldest first, with their global numbers."""
    before: list[RunStep] = []
    while run.follows is not None:
        steps, run = run.follows.step, client.run(run.follows.run_id)
        before = numbered(run, run.steps[:steps]) + before
    return before


def numbered(run: RunView, steps: list[RunStep]) -> list[RunStep]:
    """Return steps of a run with their global numbers."""
    return [step.model_copy(update={"step": run.first_step + step.step}) for step in steps]


def must_publish_start(run: RunView, policies: PolicyList) -> bool:
    """Return whether the state with which a run begins must be published, since it does not play yet."""
    if run.config.campaign is None or run.step or any(p.run_id == run.id for p in policies.data):
        return False
    head = next(p.version for p in policies.data if p.head)
    if run.follows is None:
        return run.first_version != head
    steps = run.follows.step
    made = [(-1 if p.step is None else p.step, p.version) for p in policies.data if p.run_id == run.follows.run_id]
    return max((each for each in made if each[0] < steps), default=(-1, None))[1] != head


def delete_old_checkpoints(run: RunView, client: FirstProcessClient, checkpoints: Path) -> None:
    """Delete the checkpoints of the campaign's earlier runs to which it will not go back."""
    runs = [each for each in client.runs().data if each.config.campaign == run.config.campaign]
    # If the server has ended this run, since its budget is used up, another learner may have begun the next one.
    earlier = [each for each in runs if (each.attempt, each.first_step) < (run.attempt, run.first_step)]
    promoted = [each.id for each in earlier if each.gate == "promoted"][:KEPT_PROMOTED]
    serving = {version.run_id for version in client.policies().data if version.champion}  # Maybe promoted by hand.
    kept = {run.id, *promoted, *serving} | ({run.follows.run_id} if run.follows else set())
    from_first(_delete, [checkpoints / each.id for each in earlier if each.id not in kept])


def _delete(directories: list[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _has_checkpoint(checkpoints: Path, run: RunView, steps: int) -> bool:
    return from_first(newest_checkpoint, checkpoints / run.id, steps) is not None
