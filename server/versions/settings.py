"""Settings of policy versions: weights kept on disk, adapters kept loaded, and shadow answers."""

from __future__ import annotations

from pydantic import Field

from server.section import Section


class ShadowSettings(Section):
    """Shadow answers: the head answers live prompts too, recorded and never served."""

    share: float = Field(default=0.0, ge=0, le=1)
    """Share of live turns whose prompt the head also answers, after the turn is answered. Needs adapters."""
    max_tokens: int = Field(default=512, ge=1)
    """Maximum tokens of a shadow answer."""
    waiting: int = Field(default=100, ge=1, le=10_000)
    """Maximum turns waiting for a shadow answer; further turns get none."""
    keep: int = Field(default=10_000, ge=1)
    """Shadow answers to keep; the oldest are deleted first."""


class VersionSettings(Section):
    """Which versions' weights stay on disk, and which adapters stay loaded.

    Always kept on disk: the base, champion and head, the previous champion, pinned versions, and versions that open
    episodes, unfinished runs and the gate need.
    """

    newest: int = Field(default=3, ge=1)
    """Number of newest versions whose weights are kept."""
    ancestors: int = Field(default=1, ge=0)
    """Number of the champion's ancestors (the version it was trained from, and so on) whose weights are kept."""
    best: bool = True
    """Keep, for each environment, the version with the highest evaluated success rate."""
    on_demand: int = Field(default=2, ge=1)
    """Maximum adapters loaded because a call names them (`name@N`) or continues a conversation that began on them."""
    idle_s: float = Field(default=600.0, gt=0)
    """Seconds without use after which an adapter loaded on demand is unloaded."""
