"""Which policy version a request gets, and which episode it belongs to (step 1 of the straight line)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.errors import NotFound, Unavailable
from server.policy.engine import Engine
from server.recording.episode import Episode, Episodes
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
        if not which.isdecimal() or len(which) > 10 or int(which) not in engine.versions:
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


async def find_episode(episodes: Episodes, owner: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
                       ) -> str | None:
    """Return the open live episode of a caller that has recorded the longest beginning of a conversation."""
    ends = [found for found, message in zip(chain_hashes(messages, tools), messages, strict=True)
            if message["role"] == "assistant"]  # What is recorded ends with an answer.
    return await episodes.find_live(owner, ends) if ends else None
