"""The policy version that a request gets (step 1 of the straight line)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from server.engines.protocol import Engine
from server.errors import NotFound, Unavailable
from server.recording.episode import Episode

TRIAL = -1
"""Number under which an adapter is tried that is no version: no name means it."""
LONGEST_NAME = 200
"""Longest name that is compared with patterns, in characters."""


@dataclass(slots=True)
class Pointers:
    """The versions that have a role. Only `Serving`, `Publisher` and `Champions` change them."""

    name: str
    """Name of the policy."""
    aliases: tuple[str, ...] = ()
    """Further names, and patterns of names with `*`."""
    champion: int = 0
    """The version that live traffic gets."""
    head: int = 0
    """The newest trained version, which training episodes use."""
    shared: bool = False
    """One engine of full weights: champion and head are both the version it holds."""
    canary: int | None = None
    """The candidate that a share of new live episodes gets, if any."""
    share: float = 0.0
    """The canary's share of new live episodes, 0 to 1."""
    by_key: bool = False
    """Draw the canary by API key: all new episodes of a key get it, or none."""

    @property
    def weights(self) -> Literal["full", "adapter"]:
        """The kind of weights that is trained, published, and swapped."""
        return "full" if self.shared else "adapter"

    def own_name(self, model: str) -> str:
        """Return a model's name with the policy's own name in place of an alias; an unknown name is unchanged."""
        name, at, which = model.partition("@")
        if name == self.name:
            return model
        if name in self.aliases:
            return f"{self.name}{at}{which}"
        matches = len(model) <= LONGEST_NAME and any("*" in alias and _matches(alias, model) for alias in self.aliases)
        return self.name if matches else model

    def resolve(self, model: str | None, engine: Engine) -> int:
        """Return the version that `name`, `name@N`, `name@champion` or `name@head` means now.

        Raises:
            NotFound: not this policy's name, or a version that the engine does not hold.
        """
        model = self.own_name(model or self.name)
        name, at, which = model.partition("@")
        if name != self.name or (at and not which):
            raise NotFound(
                f"no model {model!r}; this server has {self.name!r}, and the setting aliases gives it further names",
                param="model",
                code="model_not_found",
            )
        if which in ("", "champion"):
            return self.champion
        if which == "head":
            return self.head
        if (number := named_version(model)) is None or number not in engine.versions:
            if self.shared and number is not None:
                raise NotFound(
                    f"{model} is not loaded: one engine of full weights holds one version, now "
                    f"{self.name}@{self.head}; promote version {number} to serve it",
                    param="model",
                    code="model_not_found",
                )
            loaded = ", ".join(f"{self.name}@{v}" for v in sorted(engine.versions - {TRIAL}))
            raise NotFound(
                f"version {which!r} of {self.name!r} is not loaded; loaded: {loaded}",
                param="model",
                code="model_not_found",
            )
        return number

    def for_new_episode(self, model: str | None, engine: Engine, *, episode_id: str, owner_hash: str) -> int:
        """Return the version that a new live episode begins on: the canary for a share, unless `model` names a version.

        Raises:
            NotFound: as `resolve` does.
        """
        version = self.resolve(model, engine)
        if self.canary is None or "@" in (model or "") or self.canary not in engine.versions:
            return version
        return self.canary if self.draws(self.canary, episode_id=episode_id, owner_hash=owner_hash) else version

    def draws(self, canary: int, *, episode_id: str, owner_hash: str) -> bool:
        """Return whether chance gives an episode the canary: always the same for the same episode, or key."""
        drawn = hashlib.sha256(f"{canary}/{owner_hash if self.by_key else episode_id}".encode()).digest()
        return int.from_bytes(drawn[:8]) < self.share * 2**64

    def for_episode(self, episode: Episode, model: str | None, engine: Engine) -> int:
        """Return the version for a call of an episode: the version it began on, unless `model` names another.

        Raises:
            NotFound: as `resolve` does.
            Unavailable: the engine no longer holds the version that the episode began on.
        """
        if model is not None and "@" in model:
            return self.resolve(model, engine)
        self.resolve(model, engine)
        if episode.policy_version in engine.versions:
            return episode.policy_version
        if self.shared:
            return self.head
        raise Unavailable(
            f"version {episode.policy_version}, on which episode {episode.id} began, is no longer loaded",
            code="version_gone",
        )


def _matches(pattern: str, name: str) -> bool:
    """Return whether a name matches a pattern, in which only `*` is special."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


def named_version(model: str | None) -> int | None:
    """Return N of `name@N`, or None."""
    which = (model or "").partition("@")[2]
    return int(which) if which.isdecimal() and which.isascii() and len(which) <= 10 else None
