"""Episodes in the odd environments of this folder, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.live import Live
from upturn.wire import EpisodeOpen

MODULES = [
    "tests.support.environments.odd",
    "tests.support.environments.odd_thread",
    "tests.support.environments.odd_inline",
]
Serve = Callable[..., Live]


def opened(live: Live, environment: str = "odd", **more: Any) -> str:
    """Open an episode; return its id."""
    return live.client.open_episode(EpisodeOpen(environment=environment, task="train/0", **more)).id


def says(live: Live, episode: str, action: str) -> str:
    """Act; return the observation."""
    return live.client.step(episode, action).observation
