"""The learner's loop: the page to read first (steps 8 to 10 of the straight line).

    claim a run ── load weights ── [ lease a batch ── step ── publish ── acknowledge ── checkpoint ] ... ── end the run

The server gathers episodes, keeps every row and decides what is served; the learner holds weights and nothing else.
It can die at any point: an unacknowledged batch is leased again, an acknowledged one is never trained on twice
(`resume.py`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from clients.client import Client, UpturnAPIError
from clients.wire import BatchAck, BatchRequest, BatchView, PolicyPublish, RunClaim, RunEnd, RunView
from learner.checkpoint import save_checkpoint
from learner.heartbeat import LOST_CODES, Heartbeat, RunLost
from learner.horizon import horizon_at
from learner.publish import write_version
from learner.resume import load_start, resume
from learner.settings import LearnerSettings
from learner.step import Trainer

log = logging.getLogger(__name__)


def do_next_run(client: Client, settings: LearnerSettings) -> RunView | None:
    """Claim a run, train it to its end, and return it as it ended; None where no run waits.

    A run that fails is ended with its reason, and the error is raised. A run that is lost is left as it is. An
    interrupt gives the batch back and leaves the run for whoever claims it next.
    """
    run = client.claim_run(RunClaim(learner=settings.learner, run_id=settings.run))
    if run is None:
        return None
    try:
        with Heartbeat(client, run.id, settings.learner, settings.heartbeat_s) as heartbeat:
            train(run, client, settings, heartbeat)
        return client.end_run(run.id, RunEnd(learner=settings.learner, state="done", reason="all steps are trained"))
    except RunLost as lost:
        log.warning("run %s is not ours any more: %s", run.id, lost)
        return client.run(run.id)
    except Exception as error:
        if isinstance(error, UpturnAPIError) and error.code in LOST_CODES:
            log.warning("run %s is not ours any more: %s", run.id, error)
            return client.run(run.id)
        if not _server_is_away(error):  # where it is, the run goes on when it is back
            reason = f"{type(error).__name__}: {error}"[:10_000]
            client.end_run(run.id, RunEnd(learner=settings.learner, state="failed", reason=reason))
        raise


def train(run: RunView, client: Client, settings: LearnerSettings, heartbeat: Heartbeat) -> None:
    """Train every step of a run that this learner holds."""
    config, work = run.config, settings.work_dir.resolve()
    versions, checkpoints = work / "policies" / run.id, work / "checkpoints" / run.id
    policies = client.policies()
    trainer = Trainer(load_start(run, policies, settings.torch_device()), config, settings.max_row_tokens)

    for step in range(resume(trainer, run, policies, checkpoints), config.steps):
        heartbeat.check()
        horizon = horizon_at(config.schedule, step)
        request = BatchRequest(run_id=run.id, learner=settings.learner, step=step, horizon=horizon)
        asked = time.perf_counter()
        with leased(client, request, heartbeat) as batch:
            result = trainer.step(batch.samples, step)
            heartbeat.check()
            metrics = {**result.metrics, "lease_s": time.perf_counter() - asked - result.metrics.get("train_s", 0.0)}
            policy_version = None
            if result.trained:
                began = time.perf_counter()
                version = write_version(trainer.policy, versions, step, {"run_id": run.id, "horizon": horizon})
                written = time.perf_counter()
                publish = PolicyPublish(
                    run_id=run.id,
                    learner=settings.learner,
                    step=step,
                    path=str(version.directory),
                    manifest_sha256=version.manifest_sha256,
                    probe=version.probe,
                )
                policy_version = client.publish(publish).version
                metrics |= {"write_s": written - began, "publish_s": time.perf_counter() - written}
            ack = BatchAck(
                learner=settings.learner,
                state="trained",
                policy_version=policy_version,
                episodes=result.episodes,
                metrics=metrics,
            )
            client.acknowledge_batch(batch.id, ack)
        log.info("run %s step %d horizon %d version %s %s", run.id, step, horizon, policy_version, _brief(metrics))
        if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
            save_checkpoint(trainer, checkpoints, step + 1)


@contextlib.contextmanager
def leased(client: Client, request: BatchRequest, heartbeat: Heartbeat) -> Iterator[BatchView]:
    """Lease a batch; where the block does not end well, an interrupt included, give it back."""
    batch = client.lease_batch(request, on_progress=lambda _: heartbeat.check())
    try:
        yield batch
    except RunLost:
        raise  # the server has taken the batch back with the run
    except BaseException:
        try:
            client.acknowledge_batch(batch.id, BatchAck(learner=request.learner, state="returned"))
            log.warning("gave batch %s of step %d back", batch.id, request.step)
        except UpturnAPIError as error:
            log.warning("batch %s could not be given back; its lease will run out: %s", batch.id, error)
        raise


def _server_is_away(error: Exception) -> bool:
    if not isinstance(error, UpturnAPIError) or error.code == "play_failed":  # started again and again, and never good
        return False
    return error.status in (0, 429, 503)


def _brief(metrics: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in metrics.items())
