"""Reward functions of the tests, good and bad."""

from __future__ import annotations

import threading
import time

from upturn.wire import EpisodeView


def length(episode: EpisodeView) -> float:
    return float(len(episode.turns))


def by_turn(episode: EpisodeView) -> dict[int, float]:
    return {turn.index: turn.index - 0.5 for turn in episode.turns}


def silent(episode: EpisodeView) -> None:
    return None


def broken(episode: EpisodeView) -> float:
    return 1 / 0


def endless(episode: EpisodeView) -> float:
    while True:
        time.sleep(0.01)


RELEASE = threading.Event()


def deaf(episode: EpisodeView) -> float:
    RELEASE.wait(60)  # A thread that waits for a lock cannot be stopped.
    return 1.0


def not_a_score(episode: EpisodeView) -> str:
    return "good\0\ud800"


async def asynchronous(episode: EpisodeView) -> float:
    return 1.0


not_a_function = 3
