"""The server's client for several processes: process 0 makes each call, and all get its answer or its error."""

from __future__ import annotations

import logging
from collections.abc import Callable

from learner.parallel.distributed import from_first, is_first
from upturn.client import Client, UpturnAPIError
from upturn.wire import (
    BatchAck,
    BatchRequest,
    BatchView,
    PolicyList,
    PolicyPublish,
    PolicyView,
    RunClaim,
    RunEnd,
    RunList,
    RunView,
)

log = logging.getLogger(__name__)


class FirstProcessClient:
    """The learner's requests to the server. Every process must call every method.

    Methods that say that other processes may be gone are exceptions.

    Args:
        client: the server's client; only process 0 uses it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def claim_run(self, claim: RunClaim) -> RunView | None:
        """Claim a run; None if no run waits."""
        return from_first(self._client.claim_run, claim)

    def release_run(self, learner: str) -> None:
        """Give the run back if the server can be reached. Other processes do nothing, and may be gone."""
        if not is_first():
            return
        try:
            self._client.release_run(learner)
            log.info("gave the run back")
        except UpturnAPIError as error:
            log.warning("the run could not be given back; its lease will run out: %s", error)

    def hurry(self, seconds: float) -> None:
        """Let every later call wait at most this long: this process is stopping."""
        self._client.hurry(seconds)

    def run(self, run_id: str) -> RunView:
        """Read a run."""
        return from_first(self._client.run, run_id)

    def end_run(self, run_id: str, end: RunEnd) -> RunView:
        """End a run."""
        return from_first(self._client.end_run, run_id, end)

    def policies(self) -> PolicyList:
        """List all policy versions."""
        return from_first(self._client.policies)

    def publish(self, version: PolicyPublish) -> PolicyView:
        """Publish a policy version."""
        return from_first(self._client.publish, version)

    def prepare_batch(self, request: BatchRequest) -> None:
        """Let the server begin to play a step's episodes."""
        from_first(self._client.prepare_batch, request)

    def ready_for_batch(self, request: BatchRequest) -> bool:
        """Return whether the run's first step may start; waits for a while before it says no."""
        return from_first(self._client.ready_for_batch, request)

    def runs(self) -> RunList:
        """List all runs without their steps, newest first."""
        return from_first(self._client.runs)

    def lease_batch(self, request: BatchRequest, on_progress: Callable[[BatchView], None] | None = None) -> BatchView:
        """Lease a batch, waiting until the server has gathered it.

        Args:
            request: the request for the step's batch.
            on_progress: called in process 0 with each answer; raising from it ends the wait.
        """
        return from_first(self._client.lease_batch, request, on_progress)

    def acknowledge_batch(self, batch_id: str, ack: BatchAck) -> BatchAck:
        """Acknowledge a batch; return process 0's acknowledgement, since other processes measure other times."""
        return from_first(self._acknowledge, batch_id, ack)

    def fail_run(self, run_id: str, learner: str, reason: str, *, collapsed: bool = False) -> None:
        """End a run as failed. Other processes do nothing, and may be gone."""
        if is_first():
            end = RunEnd(learner=learner, state="failed", reason=reason, collapsed=collapsed)
            self._client.end_run(run_id, end)

    def return_batch(self, batch: BatchView, learner: str) -> None:
        """Return a batch if the server can be reached. Other processes do nothing, and may be gone."""
        if not is_first():
            return
        try:
            self._client.acknowledge_batch(batch.id, BatchAck(learner=learner, state="returned"))
            log.warning("gave back batch %s of step %d", batch.id, batch.step)
        except UpturnAPIError as error:
            log.warning("batch %s could not be given back; its lease will run out: %s", batch.id, error)

    def _acknowledge(self, batch_id: str, ack: BatchAck) -> BatchAck:
        self._client.acknowledge_batch(batch_id, ack)
        return ack
