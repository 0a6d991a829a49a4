"""The learner's loop: the page to read first (steps 8 to 10 of the straight line).

    claim a run ── load weights ── [ lease a batch ── step ── publish ── checkpoint ── acknowledge ] ... ── end the run

The server gathers episodes, keeps every row and decides what is served; the learner holds weights and nothing else.
It can die at any point: an unacknowledged batch is leased again, an acknowledged one is never published twice
(`resume.py`). Several processes go through this same loop; the first alone talks to the server (`distributed.py`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from learner.acceleration import accelerate
from learner.best import best_of, keep
from learner.checkpoint import save_checkpoint
from learner.checks import BadInput, check_groups
from learner.guards import RunStopped, check_collapse
from learner.heartbeat import LOST_CODES, Heartbeat, RunLost
from learner.horizon import horizon_at, horizon_metrics
from learner.parallel import distributed
from learner.parallel.distributed import ProcessFailed, from_first
from learner.publish import write_version
from learner.resume import load_start, resume, version_in_service
from learner.settings import LearnerSettings
from learner.step import Trainer
from upturn.client import Client, UpturnAPIError
from upturn.wire import BatchAck, BatchRequest, BatchView, PolicyPublish, RunClaim, RunEnd, RunStep, RunView

log = logging.getLogger(__name__)


def do_next_run(client: Client, settings: LearnerSettings) -> RunView | None:
    """Claim a run, train it to its end, and return it as it ended; None where no run waits.

    A run that fails is ended with its reason, and the error is raised. A run that is lost is left as it is. An
    interrupt gives the batch back and leaves the run for whoever claims it next.
    """
    run = from_first(lambda: client.claim_run(RunClaim(learner=settings.learner, run_id=settings.run)))
    if run is None:
        return None
    try:
        with Heartbeat(client, run.id, settings.learner, settings.heartbeat_s) as heartbeat:
            train(run, client, settings, heartbeat)
        end = RunEnd(learner=settings.learner, state="done", reason="all steps are trained")
        return from_first(lambda: client.end_run(run.id, end))
    except RunLost as lost:
        log.warning("run %s is not ours any more: %s", run.id, lost)
        return from_first(lambda: client.run(run.id))
    except Exception as met:
        if isinstance(met, UpturnAPIError) and met.code in LOST_CODES:
            log.warning("run %s is not ours any more: %s", run.id, met)
            return from_first(lambda: client.run(run.id))
        error = distributed.root_cause(met, _reason(met))
        ended = isinstance(error, Exception) and not _server_is_away(error)  # else the run goes on, here or elsewhere
        if ended and distributed.is_first():
            client.end_run(run.id, RunEnd(learner=settings.learner, state="failed", reason=_reason(error)))
        if error is met:
            raise
        raise error from met


def train(run: RunView, client: Client, settings: LearnerSettings, heartbeat: Heartbeat) -> None:
    """Train every step of a run that this learner holds."""
    work = settings.work_dir.resolve()
    policies = from_first(client.policies)
    policy = load_start(run, policies, settings.torch_device())
    accelerate(policy, settings)
    trainer = Trainer(policy, run.config, settings.max_row_tokens)
    loop = _Loop(run, client, settings.learner, heartbeat, trainer, work)
    first = resume(trainer, run, policies, loop.checkpoints, loop.replayed)
    loop.serving = version_in_service(run, policies)
    try:
        for step in range(first, run.config.steps):
            check_collapse(loop.recorded, run.config.guards)
            loop.step(step)
    except RunStopped as stopped:
        raise RunStopped(f"{stopped}. {loop.serve_best()}") from stopped


class _Loop:
    """The steps of one run; holds what one step tells the next."""

    def __init__(
        self, run: RunView, client: Client, learner: str, heartbeat: Heartbeat, trainer: Trainer, work: Path
    ) -> None:
        self.run, self.client, self.learner, self.heartbeat, self.trainer = run, client, learner, heartbeat, trainer
        self.versions, self.checkpoints = work / "policies" / run.id, work / "checkpoints" / run.id
        self.kept = self.versions / "best"
        self.recorded = list(run.steps)
        """Every finished step, as the server recorded it."""
        self.serving: Path | None = None
        """Directory of the run's newest version: what plays the next step."""

    def step(self, step: int) -> None:
        """Train one step: lease, train, publish, checkpoint, acknowledge."""
        from_first(self.heartbeat.check)
        config = self.run.config
        horizon = horizon_at(config.schedule, step, self.recorded)
        asked = time.perf_counter()
        with leased(self.client, self._request(step, horizon), self.heartbeat) as batch:
            if step == 0:
                check_groups(batch, config)
            self._prepare(step + 1)
            result = self.trainer.step(batch.samples, step)
            from_first(self.heartbeat.check)
            metrics = {**result.metrics, "lease_s": time.perf_counter() - asked - result.metrics.get("train_s", 0.0)}
            metrics |= horizon_metrics(config.schedule, step, self.recorded)
            policy_version, played_by = None, self.serving
            if result.trained:
                policy_version, times = self._publish(step, horizon)
                metrics |= times
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
                save_checkpoint(self.trainer, self.checkpoints, step + 1)
            ack = BatchAck(
                learner=self.learner,
                state="trained",
                policy_version=policy_version,
                episodes=result.episodes,
                metrics=metrics,
            )
            metrics = from_first(lambda: self._acknowledge(batch.id, ack))
        self.recorded.append(
            RunStep(step=step, horizon=horizon, policy_version=policy_version, metrics=metrics | _measured(batch))
        )
        log.info("run %s step %d horizon %d version %s %s", self.run.id, step, horizon, policy_version, _brief(metrics))
        best = best_of(self.recorded, config.guards.best_window)
        if best is not None and best.step == step and played_by is not None:
            from_first(lambda: self._keep(played_by))

    def _prepare(self, step: int) -> None:
        """Let the server play a step's episodes meanwhile, where the run wants that."""
        if self.run.config.overlap and step < self.run.config.steps:
            request = self._request(step, horizon_at(self.run.config.schedule, step))
            from_first(lambda: self.client.prepare_batch(request))

    def replayed(self, step: int) -> BatchView:
        """Return the batch of a finished step again."""
        request = self._request(step, self.recorded[step].horizon)
        return from_first(lambda: self.client.lease_batch(request.model_copy(update={"replay": True})))

    def serve_best(self) -> str:
        """Publish the run's best version again, where it is another than the newest; say what was done."""
        best = best_of(self.recorded, self.run.config.guards.best_window)
        if best is None:
            return "No version was played long enough to be called the best"
        what = (
            f"The best version, {'the first' if best.version is None else best.version}, had a mean success of "
            f"{best.success:.3f} at step {best.step}"
        )
        newest = next((s.policy_version for s in reversed(self.recorded) if s.policy_version is not None), None)
        if best.version == newest:
            return f"{what} and is the newest"
        if best.version is None or not from_first(self.kept.is_dir):
            return f"{what}: promote it"
        self.trainer.policy.load_published(self.kept)
        version, _ = self._publish(len(self.recorded), self.recorded[-1].horizon)
        return f"{what} and serves again as version {version}"

    def _publish(self, step: int, horizon: int) -> tuple[int, dict[str, float]]:
        """Write and publish a version; return its number and how long that took."""
        began = time.perf_counter()
        version = write_version(self.trainer.policy, self.versions, step, {"run_id": self.run.id, "horizon": horizon})
        written = time.perf_counter()
        publish = PolicyPublish(
            run_id=self.run.id,
            learner=self.learner,
            step=step,
            path=str(version.directory),
            manifest_sha256=version.manifest_sha256,
            probe=version.probe,
        )
        number = from_first(lambda: self.client.publish(publish)).version
        self.serving = version.directory
        return number, {"write_s": written - began, "publish_s": time.perf_counter() - written}

    def _acknowledge(self, batch_id: str, ack: BatchAck) -> dict[str, float]:
        """Acknowledge a batch and return the metrics that the server then has."""
        self.client.acknowledge_batch(batch_id, ack)
        return ack.metrics

    def _keep(self, version: Path) -> None:
        """Keep the run's best version, where it still is."""
        if version.is_dir():
            keep(version, self.kept)

    def _request(self, step: int, horizon: int) -> BatchRequest:
        return BatchRequest(run_id=self.run.id, learner=self.learner, step=step, horizon=horizon)


@contextlib.contextmanager
def leased(client: Client, request: BatchRequest, heartbeat: Heartbeat) -> Iterator[BatchView]:
    """Lease a batch, waiting while it is gathered; whatever interrupts the step gives it back."""
    batch = from_first(lambda: client.lease_batch(request, on_progress=lambda _: heartbeat.check()))
    try:
        yield batch
    except RunLost:
        raise  # the server has taken the batch back with the run
    except BaseException:
        if not distributed.is_first():
            raise
        try:
            client.acknowledge_batch(batch.id, BatchAck(learner=request.learner, state="returned"))
            log.warning("gave batch %s of step %d back", batch.id, request.step)
        except UpturnAPIError as error:
            log.warning("batch %s could not be given back; its lease will run out: %s", batch.id, error)
        raise


def _measured(batch: BatchView) -> dict[str, float]:
    """Return what the server counted of a batch and records with its step."""
    names = ("success_rate", "mean_reward", "truncated_share")
    return {name: value for name in names if (value := getattr(batch, name)) is not None}


def _reason(error: BaseException) -> str:
    """Return why a run ends, in one line where the error is made for that."""
    plain = isinstance(error, BadInput | RunStopped | ProcessFailed)
    return (str(error) if plain else f"{type(error).__name__}: {error}")[:10_000]


def _server_is_away(error: BaseException) -> bool:
    if not isinstance(error, UpturnAPIError) or error.code == "play_failed":  # started again and again, and never good
        return False
    return error.status in (0, 429, 503)


def _brief(metrics: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in metrics.items())
