"""Operations of both clients: environments, episodes, rewards, and API keys."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from uuid import uuid4

from upturn.calls import Item, Procedure, Requests, Stream, UpturnAPIError, operation, part, streamed
from upturn.wire import (
    EnvironmentList,
    EpisodeClose,
    EpisodeList,
    EpisodeOpen,
    EpisodeOpened,
    EpisodeSummary,
    EpisodeTrained,
    EpisodeView,
    Erased,
    KeyCreate,
    KeyCreated,
    KeyList,
    KeyTrained,
    RewardRequest,
    RewardRule,
    RewardSourceList,
    RewardSourceView,
    RewardView,
    ScorerList,
    ServerView,
    StepRequest,
    StepResult,
    TaskList,
    ToolUse,
    TurnReward,
)

PAGE = 100
"""Episodes in one page of an iteration: the most that the server gives."""


class EpisodeOperations(Requests):
    """What an agent, a rewarder, or an owner of keys asks for."""

    @operation
    def ready(self) -> Procedure[ServerView]:
        """Return the server's description; waits while its engine starts."""
        return self._get("/readyz", ServerView)

    @operation
    def environments(self) -> Procedure[EnvironmentList]:
        """List the server's environments."""
        return self._get("/v1/environments", EnvironmentList)

    @operation
    def tasks(self, environment: str, split: str) -> Procedure[TaskList]:
        """List all tasks of one split."""
        page = listed = yield from self._tasks(environment, split, 0)
        while page.tasks and len(listed.tasks) < listed.total:
            page = yield from self._tasks(environment, split, len(listed.tasks))
            listed = page.model_copy(update={"tasks": listed.tasks + page.tasks})
        return listed

    @streamed
    def iter_tasks(self, environment: str, split: str) -> Stream[str]:
        """Iterate over the tasks of one split, page by page."""
        read, page = 0, (yield from self._tasks(environment, split, 0))
        while page.tasks:
            for task in page.tasks:
                yield Item(task)
            read += len(page.tasks)
            if read >= page.total:
                return
            page = yield from self._tasks(environment, split, read)

    def _tasks(self, environment: str, split: str, offset: int) -> Procedure[TaskList]:
        path = f"/v1/environments/{quote(environment, safe=':/')}/tasks"
        return self._get(path, TaskList, split=split, offset=offset)

    @operation
    def open_episode(self, request: EpisodeOpen) -> Procedure[EpisodeOpened]:
        """Open an episode; only this answer contains its key."""
        return self._post("/v1/episodes", request, EpisodeOpened)

    @operation
    def step(self, episode_id: str, action: str) -> Procedure[StepResult]:
        """Act in an episode's environment. Never retried after a lost answer: an action has effects."""
        return self._post(f"/v1/episodes/{part(episode_id)}/steps", StepRequest(action=action), StepResult)

    @operation
    def call(self, episode_id: str, name: str, arguments: dict[str, Any]) -> Procedure[StepResult]:
        """Act by a tool call. Never retried after a lost answer."""
        request = StepRequest(tool_call=ToolUse(name=name, arguments=arguments))
        return self._post(f"/v1/episodes/{part(episode_id)}/steps", request, StepResult)

    @operation
    def reward(
        self,
        episode_id: str,
        request: RewardRequest | float,
        *,
        source: str = "user",
        turn: int | None = None,
        key: str | None = None,
    ) -> Procedure[RewardView]:
        """Add a reward. It is recorded once, also if it is sent again after a lost answer.

        Args:
            episode_id: the episode, or the id of a completion, response, message, tool call or turn in it.
            request: the reward's value, or the whole request, which then says what the other arguments say.
            source: who gives it.
            turn: index of the turn that earned it; None for the whole episode.
            key: idempotency key: calls with the same key record one reward. None makes a new one for this call.
        """
        if not isinstance(request, RewardRequest):
            request = RewardRequest(value=request, source=source, turn=turn, key=key)
        if request.key is None:
            request = request.model_copy(update={"key": f"client-{uuid4().hex}"})
        if episode_id.startswith("ep_"):
            path = f"/v1/episodes/{part(episode_id)}/rewards"
            return self._post(path, request, RewardView, repeatable=True)
        return self._post("/v1/rewards", TurnReward(id=episode_id, **dict(request)), RewardView, repeatable=True)

    @operation
    def reward_sources(self) -> Procedure[RewardSourceList]:
        """List the sources of rewards and their rules."""
        return self._get("/v1/reward-sources", RewardSourceList)

    @operation
    def set_reward_source(self, name: str, rule: RewardRule) -> Procedure[RewardSourceView]:
        """Change a source's rule; only the fields set in `rule` change."""
        path, body = f"/v1/reward-sources/{part(name)}", rule.model_dump(exclude_unset=True)
        answer = yield from self._request("PUT", path, repeatable=True, body=body)
        return RewardSourceView.model_validate_json(answer.content)

    @operation
    def scorers(self) -> Procedure[ScorerList]:
        """List the reward functions and judges with their statistics."""
        return self._get("/v1/scorers", ScorerList)

    @operation
    def close_episode(self, episode_id: str, reason: str | None = None) -> Procedure[EpisodeView]:
        """Close an episode; return its transcript. Closing one that has ended changes nothing."""
        path = f"/v1/episodes/{part(episode_id)}"
        try:
            return (yield from self._post(f"{path}/close", EpisodeClose(reason=reason), EpisodeView, repeatable=True))
        except UpturnAPIError as error:
            if error.code != "episode_ended":
                raise
        return (yield from self._get(path, EpisodeView))

    @operation
    def transcript(self, episode_id: str) -> Procedure[EpisodeView]:
        """Return an episode with all its turns, steps and rewards."""
        return self._get(f"/v1/episodes/{part(episode_id)}", EpisodeView)

    @operation
    def episodes(self, /, *, after: str | None = None, limit: int = 20, **filters: Any) -> Procedure[EpisodeList]:
        """Return a page of episodes, the newest first.

        Args:
            after: `next` of the page before.
            limit: maximum number of episodes, 1 to 100.
            filters: parameters of `GET /v1/episodes`: `key`, `status`, `environment`, `group`, `opened_from`,
                `opened_before`, `metadata` (a list of `NAME=VALUE`), and `text`.
        """
        return self._episodes({"after": after, "limit": limit, **filters})

    @streamed
    def iter_episodes(self, /, **filters: Any) -> Stream[EpisodeSummary]:
        """Iterate over all episodes, the newest first, page by page.

        Args:
            filters: as for `episodes`.
        """
        after: str | None = None
        while True:
            page = yield from self._episodes({"limit": PAGE, **filters, "after": after})
            for episode in page.data:
                yield Item(episode)
            after = page.next
            if after is None:
                return

    def _episodes(self, chosen: dict[str, Any]) -> Procedure[EpisodeList]:
        params = {name: value for name, value in chosen.items() if value not in (None, [])}
        return self._get("/v1/episodes", EpisodeList, **params)

    @operation
    def erase_episode(self, episode_id: str) -> Procedure[None]:
        """Erase an episode and everything recorded in it."""
        return self._do("DELETE", f"/v1/episodes/{part(episode_id)}", repeatable=False)

    @operation
    def trained(self, episode_id: str) -> Procedure[EpisodeTrained]:
        """Return the runs and policy versions trained on an episode."""
        return self._get(f"/v1/episodes/{part(episode_id)}/trained", EpisodeTrained)

    @operation
    def create_key(self, request: KeyCreate) -> Procedure[KeyCreated]:
        """Create an API key; only this answer contains it. Never retried after a lost answer."""
        return self._post("/v1/keys", request, KeyCreated)

    @operation
    def keys(self) -> Procedure[KeyList]:
        """List all API keys, including revoked ones, newest first."""
        return self._get("/v1/keys", KeyList)

    @operation
    def revoke_key(self, key_id: str) -> Procedure[None]:
        """Revoke a key and the keys of the episodes it opened."""
        return self._do("DELETE", f"/v1/keys/{part(key_id)}", repeatable=True)

    @operation
    def erase_episodes_of_key(self, key_id: str = "me") -> Procedure[Erased]:
        """Erase every episode that a key opened; `me` is this client's key."""
        answer = yield from self._request("DELETE", f"/v1/keys/{part(key_id)}/episodes", repeatable=True)
        return Erased.model_validate_json(answer.content)

    @operation
    def trained_on_key(self, key_id: str = "me") -> Procedure[KeyTrained]:
        """Return the runs and policy versions trained on the episodes of a key."""
        return self._get(f"/v1/keys/{part(key_id)}/trained", KeyTrained)
