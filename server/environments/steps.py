"""Steps: their results, and writing them (concurrent ones in one transaction, none of an episode that has ended)."""

from __future__ import annotations

import math
import time
from typing import Any, cast

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.orm import Session

from env_adapters.protocol import Transition
from server.errors import Conflict
from server.recording.episode import Episode
from server.store.tables import EpisodeRow, StepRow
from server.store.writer import Many
from upturn.wire import StepResult

_EPISODE, _STEP = (cast(sa.Table, row.__table__) for row in (EpisodeRow, StepRow))


class Stepped(StepResult):
    """The result of a step, with what is not sent to every client."""

    raw_score: float | None = Field(default=None, exclude=True)
    """The episode's score so far on the environment's own scale, if its transitions have one (`info["raw_score"]`)."""


def raw_score_of(transition: Transition) -> float | None:
    """Return the episode's score on the environment's own scale, or None."""
    score = transition.info.get("raw_score")
    return float(score) if isinstance(score, (int, float)) and math.isfinite(score) else None


def step_write(episode: Episode, action: str, transition: Transition, truncated: bool) -> Many[dict[str, Any], None]:
    """Return the write that records the episode's next step.

    The write fails with `Conflict` if the episode has ended in the meantime.
    """
    info = transition.info if transition.valid else {**transition.info, "valid": False}
    return Many(
        _insert,
        {
            "episode_id": episode.id,
            "index": episode.steps,
            "action": action,
            "observation": transition.observation,
            "reward": transition.reward,
            "terminated": transition.terminated,
            "truncated": truncated,
            "info": info,
            "created_at": time.time(),
        },
        rank=2,
    )


def _insert(session: Session, steps: list[dict[str, Any]]) -> list[Exception | None]:
    """Insert steps; return for each None, or a `Conflict` if its episode has ended."""
    connection = session.connection()
    found = connection.execute(
        sa.select(_EPISODE.c.id, _EPISODE.c.status).where(_EPISODE.c.id.in_([step["episode_id"] for step in steps]))
    )
    statuses = {row.id: row.status for row in found}
    rows = [step for step in steps if statuses.get(step["episode_id"]) == "open"]
    if rows:
        connection.execute(sa.insert(_STEP), rows)
    return [
        None
        if statuses.get(episode_id := step["episode_id"]) == "open"
        else Conflict(f"episode {episode_id} has ended ({statuses.get(episode_id) or 'erased'})", code="episode_ended")
        for step in steps
    ]
