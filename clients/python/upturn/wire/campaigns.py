"""Campaigns: what is trained from night to night, and the nights so far."""

from __future__ import annotations

from typing import Literal

from upturn.wire.base import Message

Outcome = Literal["open", "promote", "continue", "revert", "nothing"]


class Night(Message):
    """One run of a campaign."""

    run_id: str
    state: str
    """The run's state."""
    outcome: Outcome
    """`open` while the run or its decision is due; `promote`: users get its last version; `continue`: the campaign
    continues from it, and users keep the champion; `revert`: the campaign goes back to the state behind the champion;
    `nothing`: it trained no step."""
    first_step: int
    """Global learner step of its step 0."""
    steps: int
    """Finished learner steps."""
    trained_steps: int
    """Finished steps that published a version."""
    horizon: int | None
    """The horizon of its last finished step."""
    last_version: int | None
    reason: str | None
    """Why the run ended or is paused."""
    started_at: float | None
    ended_at: float | None


class CampaignView(Message):
    """A campaign, and where its next run begins."""

    id: str
    name: str
    created_at: float
    step: int
    """Global learner step of the next run's step 0."""
    attempt: int
    """How often the campaign has gone back to the state behind the champion."""
    follows: str | None
    """The run whose state the next run continues; None begins with the champion's weights and a new optimizer."""
    nights: list[Night]
    """Its runs, oldest first; empty in a list of campaigns."""


class CampaignList(Message):
    """All campaigns, newest first."""

    data: list[CampaignView]
