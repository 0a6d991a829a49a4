"""The learner's loop: the page to read first (steps 8 to 10 of the straight line).

    claim a run ── load weights ── [ lease a batch ── step ── publish ── checkpoint ── acknowledge ] ... ── end the run

The server gathers episodes, keeps every row and decides which version is served; the learner holds only weights. It can
die at any point: an unacknowledged batch is leased again, and an acknowledged one is never published twice
(`resume.py`). Several processes run this same loop, and only the first talks to the server (`parallel/first.py`).
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from learner.checks import BadInput, check_groups
from learner.guards import Collapsed, RunStopped, check_collapse
from learner.horizon import horizon_at, horizon_metrics
from learner.leases import LOST_CODES, STOPPING_S, Heartbeat, RunLost, leased
from learner.parallel import distributed
from learner.parallel.ending import ProcessFailed
from learner.parallel.first import FirstProcessClient
from learner.settings import LearnerSettings
from learner.state.campaign import begin, delete_old_checkpoints, history, must_publish_start, numbered
from learner.state.checkpoint import newest_checkpoint, save_checkpoint
from learner.step import Trainer
from learner.versions import RunVersions
from upturn.client import Client, UpturnAPIError
from upturn.outcome import nothing_to_learn
from upturn.wire import BatchAck, BatchRequest, BatchView, RunBudget, RunClaim, RunEnd, RunStep, RunView

log = logging.getLogger(__name__)


def do_next_run(server: Client, settings: LearnerSettings) -> RunView | None:
    """Claim a run, train it to its end, and return it in its final state; None if no run waits.

    A run that fails is ended with its reason, and the error is raised. A lost run is left alone. An interrupt returns
    the batch and gives the run back for the next learner that claims it.
    """
    client = FirstProcessClient(server)
    work_dir = str(settings.work_dir.resolve())
    try:
        run = client.claim_run(RunClaim(learner=settings.learner, run_id=settings.run, work_dir=work_dir))
        return None if run is None else _to_its_end(run, server, client, settings)
    except BaseException as error:
        if not isinstance(error, Exception):  # this process, or another one, was told to stop
            client.hurry(STOPPING_S)
            client.release_run(settings.learner)
        raise


def _to_its_end(run: RunView, server: Client, client: FirstProcessClient, settings: LearnerSettings) -> RunView:
    """Train a claimed run and end it; return it in its final state."""
    try:
        with Heartbeat(server, run.id, settings.learner, settings.heartbeat_s) as heartbeat:
            train(run, client, settings, heartbeat)
        return client.end_run(run.id, RunEnd(learner=settings.learner, state="done", reason="all steps are done"))
    except Exception as raised:
        if _is_lost(raised):
            log.warning("run %s no longer belongs to this learner: %s", run.id, raised)
            return client.run(run.id)
        error = distributed.root_cause(raised, _reason(raised))
        if isinstance(error, Exception) and not _server_is_away(error):  # otherwise the run can continue later
            client.fail_run(run.id, settings.learner, _reason(error), collapsed=isinstance(error, Collapsed))
        if error is raised:
            raise
        raise error from raised


def train(run: RunView, client: FirstProcessClient, settings: LearnerSettings, heartbeat: Heartbeat) -> None:
    """Train every remaining step of a run that this learner holds.

    Raises:
        RunStopped: a guard stopped the run; its best version is served again.
    """
    work = settings.work_dir.resolve()
    policies = client.policies()

    def replayed(of: RunView, step: int) -> BatchView:
        request = BatchRequest(
            run_id=of.id, learner=settings.learner, step=step, horizon=of.steps[step].horizon, replay=True
        )
        return client.lease_batch(request)

    trainer = begin(run, client, policies, settings, work / "checkpoints", replayed)
    versions = RunVersions(run, client, settings.learner, trainer.policy, work / "policies" / run.id, policies)
    loop = _Loop(run, client, settings.learner, heartbeat, trainer, versions, work / "checkpoints" / run.id)
    if must_publish_start(run, policies):
        loop.publish_start()
    try:
        for step in range(run.step, run.config.steps):
            check_collapse(loop.recorded, run.config.guards)
            loop.step(step)
            if loop.budget_is_spent():
                break
    except RunStopped as stopped:
        message = f"{stopped}. {versions.serve_best(loop.recorded)}"
        raise type(stopped)(message) from stopped
    if run.config.campaign is not None:
        loop.keep_state()
        delete_old_checkpoints(run, client, work / "checkpoints")


@dataclass
class _Loop:
    """The steps of one run."""

    run: RunView
    client: FirstProcessClient
    learner: str
    heartbeat: Heartbeat
    trainer: Trainer
    versions: RunVersions
    checkpoints: Path

    def __post_init__(self) -> None:
        self.recorded = list(self.run.steps)
        """Every finished step, as the server recorded it."""
        self._adaptive = self.run.config.schedule.kind == "adaptive"
        self._history = history(self.run, self.client) if self._adaptive else []
        """Every step of the campaign before this run, if the schedule reads them."""

    def publish_start(self) -> None:
        """Publish the state with which the run begins, once the run may start: it plays the first step."""
        horizon = self._horizon(0)
        while not self.client.ready_for_batch(self._request(0, horizon)):
            self.heartbeat.check()
        self.versions.publish(None, horizon)

    def keep_state(self) -> None:
        """Write a checkpoint of the state with which the run ends, for the campaign's next run."""
        done = len(self.recorded)
        newest = distributed.from_first(newest_checkpoint, self.checkpoints, done)
        if newest is None or newest[0] < done:
            save_checkpoint(self.trainer, self.checkpoints, done)

    def budget_is_spent(self) -> bool:
        """Return whether the server has ended the run, since a part of its budget is used up."""
        config = self.run.config
        return config.budget != RunBudget() and self.client.run(self.run.id).state != "running"

    def step(self, step: int) -> None:
        """Train one step: lease, train, publish, checkpoint, acknowledge."""
        self.heartbeat.check()
        config, first = self.run.config, self.run.first_step
        horizon = self._horizon(step)
        asked = time.perf_counter()
        with leased(self.client, self._request(step, horizon), self.heartbeat) as batch:
            if step == 0:
                check_groups(batch, config)
            self._prepare(step + 1)
            result = self.trainer.step(batch.samples, first + step)
            self.heartbeat.check()
            metrics = {**result.metrics, "lease_s": time.perf_counter() - asked - result.metrics.get("train_s", 0.0)}
            metrics |= horizon_metrics(config.schedule, first + step, self._before())
            version, played_by = None, self.versions.newest
            if result.trained:
                version, times = self.versions.publish(step, horizon)
                metrics |= times
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
                save_checkpoint(self.trainer, self.checkpoints, step + 1)
            ack = BatchAck(
                learner=self.learner,
                state="trained",
                policy_version=version,
                episodes=result.episodes,
                metrics=metrics,
            )
            metrics = self.client.acknowledge_batch(batch.id, ack).metrics
        self.recorded.append(
            RunStep(step=step, horizon=horizon, policy_version=version, metrics=metrics | _measured(batch))
        )
        log.info("run %s step %d horizon %d %s", self.run.id, step, horizon, _brief(version, metrics, batch))
        self.versions.keep_if_best(played_by, self.recorded)

    def _prepare(self, step: int) -> None:
        """Let the server play the next step's episodes during this one, if the run overlaps them."""
        if self.run.config.overlap and step < self.run.config.steps:
            self.client.prepare_batch(self._request(step, self._horizon(step)))

    def _horizon(self, step: int) -> int:
        """Return the horizon of a step of the run."""
        return horizon_at(self.run.config.schedule, self.run.first_step + step, self._before())

    def _before(self) -> list[RunStep]:
        """Return the finished steps of run and campaign with their global numbers, if the schedule reads them."""
        return self._history + numbered(self.run, self.recorded) if self._adaptive else []

    def _request(self, step: int, horizon: int) -> BatchRequest:
        return BatchRequest(run_id=self.run.id, learner=self.learner, step=step, horizon=horizon)


def _measured(batch: BatchView) -> dict[str, float]:
    """Return the figures of a batch that the server records with its step."""
    names = ("success_rate", "mean_reward", "truncated_share")
    return {name: value for name in names if (value := getattr(batch, name)) is not None}


def _is_lost(error: Exception) -> bool:
    """Return whether an error says that the run no longer belongs to this learner."""
    return isinstance(error, RunLost) or (isinstance(error, UpturnAPIError) and error.code in LOST_CODES)


def _server_is_away(error: Exception) -> bool:
    """Return whether the run can continue once the server is back."""
    if not isinstance(error, UpturnAPIError) or error.code == "play_failed":  # its retries have all failed
        return False
    return error.status in (0, 429, 503)


def _reason(error: BaseException) -> str:
    """Return the reason that a run ends with: only the message if the error's class is meant for users."""
    plain = isinstance(error, BadInput | RunStopped | ProcessFailed)
    return (str(error) if plain else f"{type(error).__name__}: {error}")[:10_000]


def _brief(version: int | None, metrics: dict[str, float], batch: BatchView) -> str:
    """Return a step's outcome for the log."""
    counts = {name: value for name, value in batch if isinstance(value, int | float)}
    if (why := nothing_to_learn(counts | metrics)) is not None:
        return f"nothing to learn: {why}"
    return f"version {version} " + " ".join(f"{name}={value:.4g}" for name, value in metrics.items())
