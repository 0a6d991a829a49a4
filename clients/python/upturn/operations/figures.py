"""Operations of both clients: figures of runs and of the server, and feedback on what people see."""

from __future__ import annotations

from upturn.calls import Procedure, Requests, operation, part
from upturn.wire import FeedbackRequest, FeedbackView, RunSteps, StatsView, StatusView


class FigureOperations(Requests):
    """What a dashboard asks for."""

    @operation
    def status(self) -> Procedure[StatusView]:
        """Return what the server is doing, whether it is well, and whether the policy gets better."""
        return self._get("/v1/status", StatusView)

    @operation
    def stats(
        self, opened_from: float | None = None, opened_before: float | None = None, bucket_s: int | None = None
    ) -> Procedure[StatsView]:
        """Return time series of recorded episodes, by default of the last day.

        Args:
            opened_from: beginning, in Unix seconds.
            opened_before: end.
            bucket_s: length of a bucket, a multiple of 300; by default it suits the period.
        """
        asked = {"from": opened_from, "to": opened_before, "bucket": bucket_s}
        params = {name: repr(value) for name, value in asked.items() if value is not None}
        return self._get("/v1/stats", StatsView, **params)

    @operation
    def steps(self, run_id: str, first: int = 0) -> Procedure[RunSteps]:
        """Return the figures of a run's finished learner steps, from the step `first` on."""
        return self._get(f"/v1/runs/{part(run_id)}/steps", RunSteps, first=str(first))

    @operation
    def feedback(self, episode_id: str, request: FeedbackRequest) -> Procedure[FeedbackView]:
        """Say something about an episode; retried after a lost answer only if it has an idempotency key."""
        path = f"/v1/episodes/{part(episode_id)}/feedback"
        return self._post(path, request, FeedbackView, repeatable=request.key is not None)
