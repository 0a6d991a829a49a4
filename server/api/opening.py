"""Opens episodes over REST: with an environment, which is reset first, or for a live agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from env_adapters.protocol import Reset
from server.engines.protocol import Engine
from server.environments.open_environments import OpenEnvironments
from server.errors import BadRequest, Conflict
from server.recording.episode import Episode
from server.recording.episodes import Episodes
from server.store.database import new_id
from server.versions.residency import Residency
from server.versions.routing import Pointers
from upturn.wire import EpisodeOpen


@dataclass(frozen=True, slots=True)
class Opened:
    """A new episode."""

    episode: Episode
    key: str
    """The episode's own API key."""
    reset: Reset | None = None
    """The environment's first messages; None without an environment."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """The environment's tools, in OpenAI's form."""


@dataclass(frozen=True, slots=True)
class Openings:
    """Chooses the version of a new episode, prepares its environment, and opens it."""

    engine: Engine
    pointers: Pointers
    residency: Residency
    episodes: Episodes
    environments: OpenEnvironments
    default_horizon: int

    async def open(self, body: EpisodeOpen, owner_hash: str, disconnected: Callable[[], Awaitable[bool]]) -> Opened:
        """Open an episode.

        Args:
            body: the request.
            owner_hash: SHA-256 of the caller's key, which will own the episode.
            disconnected: returns whether the caller has disconnected, which is checked once the environment is ready.

        Raises:
            UpturnError: the request is wrong, the environment did not start, or the caller has disconnected.
        """
        policy = None if body.policy is None else self.pointers.own_name(body.policy)
        await self.residency.load_on_demand(policy)
        episode_id = new_id("ep")
        version = self.pointers.for_new_episode(policy, self.engine, episode_id=episode_id, owner_hash=owner_hash)

        async def record() -> tuple[Episode, str]:
            return await self.episodes.open(
                body,
                policy_version=version,
                horizon=body.horizon or self.default_horizon,
                owner_hash=owner_hash,
                episode_id=episode_id,
            )

        if body.environment is None:
            if body.task is not None:
                raise BadRequest("a task needs an environment", param="task")
            episode, key = await record()
            await episode.opened()
            return Opened(episode, key)
        held, reset = await self.environments.prepare(body.environment, body.task, body.seed)
        try:
            if await disconnected():
                raise Conflict("the caller has disconnected", code="disconnected")
            episode, key = await record()
        except BaseException:
            self.environments.discard(held)
            raise
        self.environments.attach(episode, held)
        await episode.opened()
        return Opened(episode, key, reset, (await self.environments.instances.spec(body.environment)).tools)
