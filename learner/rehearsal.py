"""A rehearsal of a run: load it, train on a dry batch, write what it would publish. It claims and publishes nothing.

Each stage that worked is a line of JSON on stdout with its figures, so that whoever started this process knows what
worked before something failed, or before the time was up. The server's side is `server/training/rehearsal/`.
"""

from __future__ import annotations

import json
import logging
import resource
import shutil
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from learner.horizon import horizon_at
from learner.model.fit import BadModel, TooLittleMemory, free_bytes
from learner.model.policy import Policy
from learner.packing import pack
from learner.parallel import distributed
from learner.parallel.first import FirstProcessClient
from learner.publish import probe_token_ids, version_bytes, write_version
from learner.settings import LearnerSettings
from learner.state.campaign import begin, history
from learner.state.checkpoint import KEPT, state_bytes
from learner.step import Trainer
from upturn.client import Client, UpturnAPIError
from upturn.wire import BatchView, RunConfig, RunView, Sample

log = logging.getLogger(__name__)
SHORT_TOKENS = 32
"""Tokens of the first dry sample, which shows that a step works before a full row shows that it fits."""
_ROOT = "rehearsal"
"""Directory under the work directory for what is written; the server deletes it."""


class _NotAgain(UpturnAPIError):
    """The batch of an earlier step is not leased to a rehearsal."""


def rehearse(server: Client, settings: LearnerSettings, file: Path) -> int:
    """Rehearse the run that a file describes; return the exit code.

    Args:
        server: the server's client; only reads.
        settings: the learner's settings.
        file: JSON with `run`, a `RunView`, and `context_tokens` of the engine.
    """
    described = json.loads(file.read_text())
    run, context = RunView.model_validate(described["run"]), int(described["context_tokens"])
    stage, work = "state", settings.work_dir.resolve()
    try:
        free = free_bytes(settings.torch_device())
        trainer, again = _begin(run, FirstProcessClient(server), settings, work / "checkpoints")
        _say("state", parameters=_count(trainer.policy), repeated_steps=again)
        stage = "horizon"
        before = history(run, FirstProcessClient(server)) if run.config.schedule.kind == "adaptive" else []
        _say("horizon", horizon=horizon_at(run.config.schedule, run.first_step, before))
        stage = "step"
        _step(trainer, run, SHORT_TOKENS)
        _say(
            "step",
            checkpoints_bytes=(KEPT + 1) * state_bytes(trainer),  # The oldest is deleted after the newest is written.
            version_bytes=version_bytes(trainer.policy),
            disk_free_bytes=shutil.disk_usage(work).free,
        )
        if trainer.policy.is_adapter:  # The server loads it next to what it serves; full weights would replace that.
            stage = "version"
            version = write_version(trainer.policy, work / _ROOT, None, {"run_id": run.id})
            _say(
                "version",
                path=str(version.directory),
                manifest_sha256=version.manifest_sha256,
                probe=version.probe.model_dump(),
            )
        stage = "row"
        tokens = min(trainer.policy.row_limits(settings.max_row_tokens).max_tokens, context)
        _step(trainer, run, tokens)
        _say("row", tokens=tokens, peak_bytes=_peak_bytes(trainer.policy.device), free_bytes=free)
    except Exception as error:
        memory = isinstance(error, TooLittleMemory | BadModel | torch.OutOfMemoryError | MemoryError)
        log.exception("the rehearsal failed at its stage %s", stage)
        _say("error", at="memory" if memory else stage, message=f"{error}" or type(error).__name__)
        return 1
    return 0


def dry_batch(policy: Policy, config: RunConfig, tokens: int) -> list[Sample]:
    """Return two made-up episodes of one group that the run's algorithm learns from, the first of `tokens` tokens."""
    ids = list(islice(cycle(probe_token_ids(policy)), tokens))
    best = config.evol_threshold + 1.0
    return [
        _sample(policy, config, "rehearsal-0", ids, best),
        _sample(policy, config, "rehearsal-1", ids[:1] + ids[: min(tokens, SHORT_TOKENS) - 1][::-1], best - 2),
    ]


def _sample(policy: Policy, config: RunConfig, name: str, ids: list[int], reward: float) -> Sample:
    """Return an episode whose tokens the policy itself could have sampled: their logprobs are its own."""
    rest = len(ids) - 1
    sample = Sample(
        episode_id=name,
        group="rehearsal",
        token_ids=ids,
        loss_mask=[0] + [1] * rest,
        logprobs=[0.0] * len(ids),
        temperatures=[1.0] * len(ids),
        reward=reward - max(0.0, config.dpo_min_gap) * (name != "rehearsal-0"),
    )
    if config.traits.off_policy:
        return sample
    (row,) = pack([sample])
    with torch.no_grad():
        logprobs = policy.logprobs(row).values.tolist()
    return sample.model_copy(update={"logprobs": [0.0, *logprobs]})


def _begin(
    run: RunView, client: FirstProcessClient, settings: LearnerSettings, checkpoints: Path
) -> tuple[Trainer, int]:
    """Return a trainer in the state with which the run begins, and how many steps the run would repeat for it."""
    missing: set[tuple[str, int]] = set()

    def refused(of: RunView, step: int) -> BatchView:
        missing.update((of.id, later) for later in range(step, run.follows.step if run.follows else step + 1))
        raise _NotAgain(409, "rehearsal", "a rehearsal repeats no steps")

    trainer = begin(run, client, client.policies(), settings, checkpoints, refused)
    return trainer, len(missing)


def _step(trainer: Trainer, run: RunView, tokens: int) -> None:
    """Train on a dry batch.

    Raises:
        ValueError: the step trained nothing.
    """
    began = time.perf_counter()
    result = trainer.step(dry_batch(trainer.policy, run.config, tokens), run.first_step)
    if not result.trained:
        raise ValueError(f"{run.config.algorithm} learned nothing from a dry batch")
    log.info("a dry step of %d tokens took %.1f s", tokens, time.perf_counter() - began)


def _count(policy: Policy) -> int:
    return sum(parameter.numel() for parameter in policy.model.parameters())


def _peak_bytes(device: torch.device) -> int:
    """Return the most memory that this process has had on the device of the weights."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _say(stage: str, **figures: Any) -> None:
    if distributed.is_first():
        sys.stdout.write(json.dumps({"stage": stage, **figures}) + "\n")
        sys.stdout.flush()
