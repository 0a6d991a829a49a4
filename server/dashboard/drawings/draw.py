"""Draws the states of an episode by its environment's name. Reads files the first time, so call it from a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from server.dashboard.drawings import babyai, textcraft, texts
from server.dashboard.drawings.parts import State
from server.dashboard.drawings.record import Recorded, taken
from upturn.wire import EpisodeView

log = logging.getLogger("upturn.dashboard")
DRAWN: Mapping[str, Callable[[Recorded], list[State]]] = {
    "babyai": babyai.states,
    "gymnasium": texts.gymnasium,
    "miniwob": texts.web,
    "sciworld": texts.sciworld,
    "search": texts.search,
    "shop": texts.web,
    "textcraft": textcraft.states,
    "textworld": texts.textworld,
}
"""By the environment's name, without its argument. Others get `texts.other`."""


def states_of(view: EpisodeView, first: str = "") -> list[State]:
    """Return the state before an episode's first step, and after each of its steps; empty without an environment.

    Args:
        view: the episode.
        first: the first observation, where no turn has recorded it yet.
    """
    if view.environment is None:
        return []
    steps = [taken(step) for step in view.steps]
    recorded = Recorded(view.environment, view.task or "", first_message(view) or first, steps)
    draw = DRAWN.get(view.environment.partition(":")[0], texts.other)
    try:
        return draw(recorded)
    except (ValueError, TypeError, KeyError, AttributeError):  # A record from elsewhere may have any form.
        log.warning("the states of episode %s cannot be drawn", view.id, exc_info=True)
        return [State() for _ in range(len(view.steps) + 1)]


def first_message(view: EpisodeView) -> str:
    """Return the first turn's last user message, which has the first observation; empty without a turn."""
    for turn in view.turns[:1]:
        for message in reversed(turn.messages):
            if message.get("role") == "user" and isinstance(message.get("content"), str):
                return str(message["content"])
    return ""
