"""Operations of both clients: plays, training runs, their schedule, and rehearsals."""

from __future__ import annotations

from collections.abc import Callable

from upturn.calls import POLL_S, Item, Pause, Procedure, Requests, Stream, operation, part, streamed
from upturn.wire import (
    CampaignList,
    CampaignView,
    PlayRequest,
    PlayView,
    RehearsalRequest,
    RehearsalView,
    RunList,
    RunRequest,
    RunView,
    ScheduleView,
    Trigger,
    TriggerCreate,
    TriggerView,
)


class TrainingOperations(Requests):
    """What starts and follows plays and training."""

    @operation
    def start_play(self, request: PlayRequest) -> Procedure[PlayView]:
        """Start a play: the server plays tasks with a policy."""
        return self._post("/v1/plays", request, PlayView)

    @operation
    def play(self, play_id: str) -> Procedure[PlayView]:
        """Return a play's progress."""
        return self._get(f"/v1/plays/{part(play_id)}", PlayView)

    @operation
    def cancel_play(self, play_id: str) -> Procedure[PlayView]:
        """Cancel a play."""
        return self._post(f"/v1/plays/{part(play_id)}/cancel", None, PlayView, repeatable=True)

    @streamed
    def follow_play(self, play_id: str) -> Stream[PlayView]:
        """Iterate over a play's progress until it has ended; the last view is the result."""
        while True:
            view = yield from self._get(f"/v1/plays/{part(play_id)}", PlayView)
            yield Item(view)
            if view.state != "running":
                return
            yield Pause(POLL_S)

    @operation
    def wait_for_play(self, play_id: str, on_progress: Callable[[PlayView], None] | None = None) -> Procedure[PlayView]:
        """Poll until a play has ended in any state; `on_progress` receives every answer."""
        while True:
            view = yield from self._get(f"/v1/plays/{part(play_id)}", PlayView)
            if on_progress is not None:
                on_progress(view)
            if view.state != "running":
                return view
            yield Pause(POLL_S)

    @operation
    def create_run(self, request: RunRequest) -> Procedure[RunView]:
        """Request a training run."""
        return self._post("/v1/runs", request, RunView)

    @operation
    def run(self, run_id: str) -> Procedure[RunView]:
        """Return a run with the metrics of its steps."""
        return self._get(f"/v1/runs/{part(run_id)}", RunView)

    @streamed
    def follow_run(self, run_id: str) -> Stream[RunView]:
        """Iterate over a run's progress until it is paused or has ended; the last view is the result."""
        while True:
            view = yield from self._get(f"/v1/runs/{part(run_id)}", RunView)
            yield Item(view)
            if view.state not in ("queued", "running"):
                return
            yield Pause(POLL_S)

    @operation
    def runs(self) -> Procedure[RunList]:
        """List all runs, newest first."""
        return self._get("/v1/runs", RunList)

    @operation
    def campaigns(self) -> Procedure[CampaignList]:
        """List all campaigns without their nights, newest first."""
        return self._get("/v1/campaigns", CampaignList)

    @operation
    def campaign(self, name: str) -> Procedure[CampaignView]:
        """Return a campaign with its nights, oldest first."""
        return self._get(f"/v1/campaigns/{part(name)}", CampaignView)

    @operation
    def cancel_run(self, run_id: str) -> Procedure[RunView]:
        """Cancel a run; its learner stops at its next request."""
        return self._post(f"/v1/runs/{part(run_id)}/cancel", None, RunView, repeatable=True)

    @operation
    def pause_run(self, run_id: str) -> Procedure[RunView]:
        """Pause a run: its learner loses the lease, its steps and batch are kept."""
        return self._post(f"/v1/runs/{part(run_id)}/pause", None, RunView, repeatable=True)

    @operation
    def resume_run(self, run_id: str) -> Procedure[RunView]:
        """Resume a paused run at its step."""
        return self._post(f"/v1/runs/{part(run_id)}/resume", None, RunView, repeatable=True)

    @operation
    def schedule(self) -> Procedure[ScheduleView]:
        """Return the triggers that start runs, each with the condition it waits for."""
        return self._get("/v1/schedule", ScheduleView)

    @operation
    def add_trigger(self, name: str, trigger: Trigger) -> Procedure[TriggerView]:
        """Add a trigger; 409 if the name is taken."""
        return self._post("/v1/schedule/triggers", TriggerCreate(name=name, trigger=trigger), TriggerView)

    @operation
    def remove_trigger(self, name: str) -> Procedure[None]:
        """Remove a trigger that was added over the API."""
        return self._do("DELETE", f"/v1/schedule/triggers/{part(name)}", repeatable=False)

    @operation
    def start_rehearsal(self, request: RehearsalRequest) -> Procedure[RehearsalView]:
        """Start a rehearsal of tonight's runs; 409 while another one, or a run, is in progress."""
        return self._post("/v1/rehearsals", request, RehearsalView)

    @operation
    def rehearsal(self, rehearsal_id: str) -> Procedure[RehearsalView]:
        """Return the results of a rehearsal so far."""
        return self._get(f"/v1/rehearsals/{part(rehearsal_id)}", RehearsalView)

    @operation
    def cancel_rehearsal(self, rehearsal_id: str) -> Procedure[RehearsalView]:
        """End a rehearsal."""
        return self._post(f"/v1/rehearsals/{part(rehearsal_id)}/cancel", None, RehearsalView, repeatable=True)

    @operation
    def wait_for_rehearsal(
        self, rehearsal_id: str, on_progress: Callable[[RehearsalView], None] | None = None
    ) -> Procedure[RehearsalView]:
        """Poll until a rehearsal has ended; `on_progress` receives every answer."""
        while True:
            view = yield from self._get(f"/v1/rehearsals/{part(rehearsal_id)}", RehearsalView)
            if on_progress is not None:
                on_progress(view)
            if view.state != "running":
                return view
            yield Pause(POLL_S)
