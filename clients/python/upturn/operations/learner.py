"""Operations of both clients that only a learner needs: claim a run, lease its batches, publish versions."""

from __future__ import annotations

from collections.abc import Callable

from upturn.calls import POLL_S, Pause, Procedure, Requests, UpturnAPIError, operation, part
from upturn.wire import (
    BatchAck,
    BatchRequest,
    BatchView,
    PolicyPublish,
    PolicyView,
    RunClaim,
    RunEnd,
    RunRelease,
    RunView,
)


class LearnerOperations(Requests):
    """What only a learner asks for."""

    @operation
    def claim_run(self, request: RunClaim) -> Procedure[RunView | None]:
        """Claim the lease of a run; None if no run is waiting. Claiming a run again renews its lease."""
        response = yield from self._request("POST", "/v1/runs/claim", body=request, repeatable=True)
        return None if response.status_code == 204 else RunView.model_validate_json(response.content)

    @operation
    def release_run(self, learner: str) -> Procedure[None]:
        """Give the run back that this learner holds, so that another can claim it at once; nothing if it holds none."""
        return self._do("POST", "/v1/runs/release", body=RunRelease(learner=learner), repeatable=True)

    @operation
    def heartbeat_run(self, run_id: str, learner: str) -> Procedure[None]:
        """Renew a run's lease; 409 if another learner holds it or the run is cancelled."""
        return self._do("POST", f"/v1/runs/{part(run_id)}/heartbeat", body={"learner": learner}, repeatable=True)

    @operation
    def end_run(self, run_id: str, request: RunEnd) -> Procedure[RunView]:
        """Report how a run ended."""
        return self._post(f"/v1/runs/{part(run_id)}/end", request, RunView, repeatable=True)

    @operation
    def lease_batch(
        self, request: BatchRequest, on_progress: Callable[[BatchView], None] | None = None
    ) -> Procedure[BatchView]:
        """Lease the batch of one learner step, waiting until the server has gathered it.

        Args:
            request: names the run and the step.
            on_progress: receives every answer; an exception from it ends the wait.

        Raises:
            UpturnAPIError: also with code `play_failed` if the play that fills the batch failed or was cancelled, and
            `batch_trained` or `batch_returned` if the server will not lease this step's batch again.
        """
        while True:
            view = yield from self._post("/v1/batches", request, BatchView, repeatable=True)
            if on_progress is not None:
                on_progress(view)
            if view.state == "leased":
                return view
            if view.state != "gathering":
                raise UpturnAPIError(409, f"batch_{view.state}", f"the batch of step {request.step} is {view.state}")
            if view.play is not None and view.play.state in ("failed", "cancelled"):
                raise UpturnAPIError(409, "play_failed", view.play.error or f"the play was {view.play.state}")
            yield Pause(POLL_S)

    @operation
    def prepare_batch(self, request: BatchRequest) -> Procedure[None]:
        """Let the server start playing a step's episodes."""
        asked = request.model_copy(update={"prepare": True})
        return self._do("POST", "/v1/batches", body=asked, repeatable=True)

    @operation
    def ready_for_batch(self, request: BatchRequest) -> Procedure[bool]:
        """Return whether the run's first step may start; waits for a while before it says no."""
        asked = request.model_copy(update={"only_ready": True})
        view = yield from self._post("/v1/batches", asked, BatchView, repeatable=True)
        return view.ready

    @operation
    def acknowledge_batch(self, batch_id: str, request: BatchAck) -> Procedure[None]:
        """Report that a batch was trained on, or return it."""
        return self._do("POST", f"/v1/batches/{part(batch_id)}/ack", body=request, repeatable=True)

    @operation
    def publish(self, request: PolicyPublish) -> Procedure[PolicyView]:
        """Publish weights, identified by their manifest's hash; answered once they are checked."""
        return self._post("/v1/policies", request, PolicyView, repeatable=True)
