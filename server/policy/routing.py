"""Which policy version a request gets, and which episode it belongs to (step 1 of the straight line)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.errors import NotFound, Unavailable
from server.policy.engine import Engine
from server.recording.episode import EPISODE_KEY, Episode, Episodes, hash_of
from server.recording.tokens import chain_hashes


@dataclass(slots=True)
class Pointers:
    """The two versions that have a role; moved by the swap only."""

    name: str
    """The policy's name."""
    champion: int = 0
    """The version that live traffic gets."""
    head: int = 0
    """The newest trained version, which training episodes use."""
    shared: bool = False
    """One engine of full weights: champion and head are the version it holds."""

    def resolve(self, model: str | None, engine: Engine) -> int:
        """Return the version that `name`, `name@N`, `name@champion` or `name@head` means now.

        Raises:
            NotFound: another name, or a version that the engine does not hold.
        """
        name, at, which = (model or self.name).partition("@")
        if name != self.name or (at and not which):
            raise NotFound(f"no model {model!r}; this server has {self.name!r}", param="model", code="model_not_found")
        if which in ("", "champion"):
            return self.champion
        if which == "head":
            return self.head
        if not which.isdecimal() or int(which) not in engine.versions:
            loaded = ", ".join(f"{self.name}@{v}" for v in sorted(engine.versions))
            raise NotFound(f"no version {which!r} of {self.name!r} is loaded; loaded: {loaded}", param="model",
                           code="model_not_found")
        return int(which)

    def for_episode(self, episode: Episode, model: str | None, engine: Engine) -> int:
        """Return the version for a call of an episode: the one it began with while the engine still holds it."""
        if model is not None and "@" in model:
            return self.resolve(model, engine)
        self.resolve(model, engine)
        if episode.policy_version in engine.versions:
            return episode.policy_version
        if self.shared:
            return self.head
        raise Unavailable(f"version {episode.policy_version}, on which episode {episode.id} began, is gone",
                          code="version_gone")


async def find_episode(episodes: Episodes, *, named: str | None, key: str, messages: list[dict[str, Any]],
                       tools: list[dict[str, Any]]) -> str | None:
    """Return the episode of a chat call: named, by its own key, or by its recorded beginning; None is a new one."""
    if named is None and key.startswith(EPISODE_KEY):
        named = await episodes.find_by_key(key)
        if named is None:
            raise NotFound("no episode has this key", code="episode_not_found")
    return named or await episodes.find_live(hash_of(key), chain_hashes(messages, tools))
