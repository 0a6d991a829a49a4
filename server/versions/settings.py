"""Settings of policy versions: what is kept, what is loaded, and shadow answers."""

from __future__ import annotations

from pydantic import Field

from server.section import Section


class ShadowSettings(Section):
    """How many live turns the newest version answers once more, unseen."""

    share: float = Field(default=0.0, ge=0, le=1)
    """Share of live turns whose prompt the head answers too, after the turn is answered. It needs adapters."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest such answer."""
    waiting: int = Field(default=100, ge=1, le=10_000)
    """Turns that wait for it; more are left out."""
    keep: int = Field(default=10_000, ge=1)
    """Such answers that are kept, the newest ones."""


class VersionSettings(Section):
    """Which versions' weights stay on disk, and which are loaded.

    The base, champion and head, the champion before, pinned ones, and what open episodes, runs and the gate need stay
    anyway.
    """

    newest: int = Field(default=3, ge=1)
    """Newest versions whose weights stay."""
    ancestors: int = Field(default=1, ge=0)
    """So many versions stay that the champion was trained from, one from the other."""
    best: bool = True
    """The version with the highest success in an evaluation stays, for each environment."""
    on_demand: int = Field(default=2, ge=1)
    """Adapters that are loaded at once since calls name them (`name@N`) or go on with a conversation on them."""
    idle_s: float = Field(default=600.0, gt=0)
    """One of those that nobody has used for so long is unloaded."""
