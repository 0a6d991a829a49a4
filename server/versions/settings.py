"""Settings of policy versions: which stay on disk, which are loaded, and shadow answers."""

from __future__ import annotations

from pydantic import Field

from server.section import Section


class ShadowSettings(Section):
    """Shadow answers: the head also answers a share of live turns, unseen by users."""

    share: float = Field(default=0.0, ge=0, le=1)
    """Fraction of live turns whose prompt the head also answers, after the turn is answered. Requires adapters."""
    max_tokens: int = Field(default=512, ge=1)
    """Maximum length of a shadow answer, in tokens."""
    waiting: int = Field(default=100, ge=1, le=10_000)
    """Maximum number of turns waiting for a shadow answer; further turns are skipped."""
    keep: int = Field(default=10_000, ge=1)
    """Number of newest shadow answers that are kept."""


class VersionSettings(Section):
    """Which versions' weights stay on disk, and which are loaded.

    Always kept: base, champion, previous champion, head, pinned versions, and what open episodes, runs and the gate
    need.
    """

    newest: int = Field(default=3, ge=1)
    """Number of newest versions whose weights are kept."""
    ancestors: int = Field(default=1, ge=0)
    """Number of the champion's ancestors whose weights are kept, nearest first."""
    best: bool = True
    """Keep the version with the highest evaluation success, per environment."""
    on_demand: int = Field(default=2, ge=1)
    """Maximum number of adapters loaded on demand: because a call names one (`name@N`) or continues a conversation on
    it."""
    idle_s: float = Field(default=600.0, gt=0)
    """Seconds without use after which an adapter loaded on demand is unloaded."""
