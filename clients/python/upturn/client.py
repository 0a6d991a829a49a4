"""The synchronous Python client: one method per route, typed messages in and out, one rule for retries.

A refused request (429, 503), or one that never reached the server, is always retried. A request whose answer was lost
is retried only if repeating it changes nothing. Every other error is raised at once as `UpturnAPIError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from upturn.figure_calls import FigureCalls
from upturn.learner_calls import POLL_S, LearnerCalls
from upturn.transport import UpturnAPIError
from upturn.wire import (
    CampaignList,
    CampaignView,
    EnvironmentList,
    EpisodeClose,
    EpisodeList,
    EpisodeOpen,
    EpisodeOpened,
    EpisodeTrained,
    EpisodeView,
    Erased,
    KeyCreate,
    KeyCreated,
    KeyList,
    KeyTrained,
    NotificationList,
    NotificationTest,
    PlayRequest,
    PlayView,
    PolicyLineage,
    PolicyList,
    PolicyView,
    PromotionList,
    PromotionRequest,
    RehearsalRequest,
    RehearsalView,
    RewardRequest,
    RewardRule,
    RewardSourceList,
    RewardSourceView,
    RewardView,
    RunList,
    RunRequest,
    RunView,
    ScheduleView,
    ScorerList,
    ServerView,
    ShadowList,
    StepRequest,
    StepResult,
    TaskList,
    ToolUse,
    Trigger,
    TriggerCreate,
    TriggerView,
    TurnReward,
)

__all__ = ["Client", "UpturnAPIError"]


class Client(LearnerCalls, FigureCalls):
    """Every operation of a server. `Transport` documents the constructor."""

    def ready(self) -> ServerView:
        """Return the server's description; waits while its engine starts."""
        return self._get("/readyz", ServerView)

    # ------------------------------------------------------------------------------- environments and episodes

    def environments(self) -> EnvironmentList:
        """List the server's environments."""
        return self._get("/v1/environments", EnvironmentList)

    def tasks(self, environment: str, split: str) -> TaskList:
        """List all tasks of one split."""
        path = f"/v1/environments/{quote(environment, safe=':/')}/tasks"
        listed = self._get(path, TaskList, split=split)
        while len(listed.tasks) < listed.total:
            page = self._get(path, TaskList, split=split, offset=str(len(listed.tasks)))
            listed = page.model_copy(update={"tasks": listed.tasks + page.tasks})
        return listed

    def open_episode(self, request: EpisodeOpen) -> EpisodeOpened:
        """Open an episode; only this answer contains its key."""
        return self._post("/v1/episodes", request, EpisodeOpened)

    def step(self, episode_id: str, action: str) -> StepResult:
        """Act in an episode's environment. Never retried after a lost answer: an action has effects."""
        return self._post(f"/v1/episodes/{episode_id}/steps", StepRequest(action=action), StepResult)

    def call(self, episode_id: str, name: str, arguments: dict[str, Any]) -> StepResult:
        """Act by a tool call. Never retried after a lost answer."""
        request = StepRequest(tool_call=ToolUse(name=name, arguments=arguments))
        return self._post(f"/v1/episodes/{episode_id}/steps", request, StepResult)

    def reward(self, episode_id: str, request: RewardRequest) -> RewardView:
        """Add a reward; retried after a lost answer only if it has an idempotency key.

        Args:
            episode_id: the episode, or the id of a completion, response, message, tool call or turn in it.
            request: the reward.
        """
        if not episode_id.startswith("ep_"):
            body = TurnReward(id=episode_id, **dict(request))
            return self._post("/v1/rewards", body, RewardView, repeatable=request.key is not None)
        path = f"/v1/episodes/{episode_id}/rewards"
        return self._post(path, request, RewardView, repeatable=request.key is not None)

    def reward_sources(self) -> RewardSourceList:
        """List the sources of rewards and their rules."""
        return self._get("/v1/reward-sources", RewardSourceList)

    def set_reward_source(self, name: str, rule: RewardRule) -> RewardSourceView:
        """Change a source's rule; only the fields set in `rule` change."""
        answer = self._request(
            "PUT",
            f"/v1/reward-sources/{quote(name, safe='')}",
            repeatable=True,
            body=rule.model_dump(exclude_unset=True),
        )
        return RewardSourceView.model_validate_json(answer.content)

    def scorers(self) -> ScorerList:
        """List the reward functions and judges with their statistics."""
        return self._get("/v1/scorers", ScorerList)

    def close_episode(self, episode_id: str, reason: str | None = None) -> EpisodeView:
        """Close an episode; return its transcript."""
        return self._post(f"/v1/episodes/{episode_id}/close", EpisodeClose(reason=reason), EpisodeView, repeatable=True)

    def episode(self, episode_id: str, tokens: bool | None = None) -> EpisodeView:
        """Return an episode's transcript.

        Args:
            episode_id: the episode.
            tokens: True also shows the tokens of each turn as text; False leaves out the lists of token ids.
        """
        params = {} if tokens is None else {"tokens": str(tokens).lower()}
        return self._get(f"/v1/episodes/{episode_id}", EpisodeView, **params)

    def episodes(self, *, after: str | None = None, limit: int = 20, **filters: Any) -> EpisodeList:
        """Return a page of episodes, the newest first.

        Args:
            after: `next` of the page before.
            limit: maximum number of episodes, 1 to 100.
            filters: parameters of `GET /v1/episodes`, such as `key`, `status`, `environment`, `task`, `success`,
                `version`, `reward_from`, `run`, `metadata` (a list of `NAME=VALUE`), and `text`.
        """
        chosen = {"after": after, "limit": limit, **filters}
        params = {name: value for name, value in chosen.items() if value not in (None, [])}
        return EpisodeList.model_validate_json(
            self._request("GET", "/v1/episodes", params=params, repeatable=True).content
        )

    def erase_episode(self, episode_id: str) -> None:
        """Erase an episode and everything recorded in it."""
        self._request("DELETE", f"/v1/episodes/{episode_id}", repeatable=False)

    def trained(self, episode_id: str) -> EpisodeTrained:
        """Return the runs and policy versions trained on an episode."""
        return self._get(f"/v1/episodes/{episode_id}/trained", EpisodeTrained)

    # ---------------------------------------------------------------------------------------------------- keys

    def create_key(self, request: KeyCreate) -> KeyCreated:
        """Create an API key; only this answer contains it. Never retried after a lost answer."""
        return self._post("/v1/keys", request, KeyCreated)

    def keys(self) -> KeyList:
        """List all API keys, including revoked ones, newest first."""
        return self._get("/v1/keys", KeyList)

    def revoke_key(self, key_id: str) -> None:
        """Revoke a key and the keys of the episodes it opened."""
        self._request("DELETE", f"/v1/keys/{key_id}", repeatable=True)

    def erase_episodes_of_key(self, key_id: str = "me") -> Erased:
        """Erase every episode that a key opened; `me` is this client's key."""
        answer = self._request("DELETE", f"/v1/keys/{key_id}/episodes", repeatable=True)
        return Erased.model_validate_json(answer.content)

    def trained_on_key(self, key_id: str = "me") -> KeyTrained:
        """Return the runs and policy versions trained on the episodes of a key."""
        return self._get(f"/v1/keys/{key_id}/trained", KeyTrained)

    # --------------------------------------------------------------------------------------------------- plays

    def start_play(self, request: PlayRequest) -> PlayView:
        """Start a play: the server plays tasks with a policy."""
        return self._post("/v1/plays", request, PlayView)

    def play(self, play_id: str) -> PlayView:
        """Return a play's progress."""
        return self._get(f"/v1/plays/{play_id}", PlayView)

    def cancel_play(self, play_id: str) -> PlayView:
        """Cancel a play."""
        return self._post(f"/v1/plays/{play_id}/cancel", None, PlayView, repeatable=True)

    def wait_for_play(self, play_id: str, on_progress: Callable[[PlayView], None] | None = None) -> PlayView:
        """Poll until a play has ended in any state; `on_progress` receives every answer."""
        while True:
            view = self.play(play_id)
            if on_progress is not None:
                on_progress(view)
            if view.state != "running":
                return view
            self._sleep(POLL_S)

    # ------------------------------------------------------------------------------------------- training runs

    def create_run(self, request: RunRequest) -> RunView:
        """Request a training run."""
        return self._post("/v1/runs", request, RunView)

    def run(self, run_id: str) -> RunView:
        """Return a run with the metrics of its steps."""
        return self._get(f"/v1/runs/{run_id}", RunView)

    def runs(self) -> RunList:
        """List all runs, newest first."""
        return self._get("/v1/runs", RunList)

    def campaigns(self) -> CampaignList:
        """List all campaigns without their nights, newest first."""
        return self._get("/v1/campaigns", CampaignList)

    def campaign(self, name: str) -> CampaignView:
        """Return a campaign with its nights, oldest first."""
        return self._get(f"/v1/campaigns/{name}", CampaignView)

    def cancel_run(self, run_id: str) -> RunView:
        """Cancel a run; its learner stops at its next request."""
        return self._post(f"/v1/runs/{run_id}/cancel", None, RunView, repeatable=True)

    def pause_run(self, run_id: str) -> RunView:
        """Pause a run: its learner loses the lease, its steps and batch are kept."""
        return self._post(f"/v1/runs/{run_id}/pause", None, RunView, repeatable=True)

    def resume_run(self, run_id: str) -> RunView:
        """Resume a paused run at its step."""
        return self._post(f"/v1/runs/{run_id}/resume", None, RunView, repeatable=True)

    def schedule(self) -> ScheduleView:
        """Return the triggers that start runs, each with the condition it waits for."""
        return self._get("/v1/schedule", ScheduleView)

    def add_trigger(self, name: str, trigger: Trigger) -> TriggerView:
        """Add a trigger; 409 if the name is taken."""
        return self._post("/v1/schedule/triggers", TriggerCreate(name=name, trigger=trigger), TriggerView)

    def remove_trigger(self, name: str) -> None:
        """Remove a trigger that was added over the API."""
        self._request("DELETE", f"/v1/schedule/triggers/{name}", repeatable=False)

    def start_rehearsal(self, request: RehearsalRequest) -> RehearsalView:
        """Start a rehearsal of tonight's runs; 409 while another one, or a run, is in progress."""
        return self._post("/v1/rehearsals", request, RehearsalView)

    def rehearsal(self, rehearsal_id: str) -> RehearsalView:
        """Return the results of a rehearsal so far."""
        return self._get(f"/v1/rehearsals/{rehearsal_id}", RehearsalView)

    def cancel_rehearsal(self, rehearsal_id: str) -> RehearsalView:
        """End a rehearsal."""
        return self._post(f"/v1/rehearsals/{rehearsal_id}/cancel", None, RehearsalView, repeatable=True)

    def wait_for_rehearsal(
        self, rehearsal_id: str, on_progress: Callable[[RehearsalView], None] | None = None
    ) -> RehearsalView:
        """Poll until a rehearsal has ended; `on_progress` receives every answer."""
        while True:
            view = self.rehearsal(rehearsal_id)
            if on_progress is not None:
                on_progress(view)
            if view.state != "running":
                return view
            self._sleep(POLL_S)

    # ------------------------------------------------------------------------------------------------ policies

    def policies(self) -> PolicyList:
        """List all policy versions, newest first."""
        return self._get("/v1/policies", PolicyList)

    def promote(self, version: int, reason: str = "by hand") -> PolicyView:
        """Make a version the champion."""
        request = PromotionRequest(reason=reason)
        return self._post(f"/v1/policies/{version}/promote", request, PolicyView, repeatable=True)

    def rollback(self, reason: str = "by hand") -> PolicyView:
        """Make the previous champion the champion again. Never retried after a lost answer."""
        return self._post("/v1/policies/rollback", PromotionRequest(reason=reason), PolicyView)

    def pin(self, version: int) -> PolicyView:
        """Pin a version: its weights are never deleted, and the watch does not roll it back."""
        return self._post(f"/v1/policies/{version}/pin", None, PolicyView, repeatable=True)

    def unpin(self, version: int) -> PolicyView:
        """Unpin a version."""
        answer = self._request("DELETE", f"/v1/policies/{version}/pin", repeatable=True)
        return PolicyView.model_validate_json(answer.content)

    def lineage(self, version: int) -> PolicyLineage:
        """Return a version's lineage: its ancestors back to the base, and the episodes that trained it."""
        return self._get(f"/v1/policies/{version}/lineage", PolicyLineage)

    def shadows(self) -> ShadowList:
        """List the head's shadow answers to live prompts, newest first."""
        return self._get("/v1/shadow", ShadowList)

    def promotions(self) -> PromotionList:
        """List all promotions and rollbacks, newest first."""
        return self._get("/v1/promotions", PromotionList)

    def notifications(self, limit: int = 100) -> NotificationList:
        """List the newest notifications, newest first."""
        return self._get("/v1/notifications", NotificationList, limit=str(limit))

    def test_notifications(self) -> NotificationTest:
        """Send a test message to every target of notifications, and return whether it has arrived."""
        return self._post("/v1/notifications/test", None, NotificationTest)
