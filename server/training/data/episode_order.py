"""The order of played episodes: by play, task, and repetition, never by the time at which one happened to begin.

Episodes of a play run at the same time, and which of them begins first depends on the machine. A learner step depends
on the order of its samples, because it splits them into minibatches and adds floats up.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from server.store.tables import EpisodeRow

Place = tuple[str, str, str, int, str]


def place(episode: EpisodeRow) -> Place:
    """Return what a batch's episodes are sorted by; live episodes and old rows come first, by time."""
    if episode.repetition is None:
        return ("", "", "", 0, episode.id)
    return (episode.play_id or "", episode.environment or "", episode.task or "", episode.repetition, episode.id)


def newest_first() -> list[sa.ColumnElement[Any]]:
    """Return the same order for the played episodes of one task, reversed, in SQL."""
    return [EpisodeRow.play_id.desc(), EpisodeRow.repetition.desc(), EpisodeRow.id.desc()]
