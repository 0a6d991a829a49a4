"""A reward function as the documentation of version 0.1.0 shows one."""

from clients.wire import EpisodeView


def polite(episode: EpisodeView) -> float | dict[int, float] | None:
    return 1.0 if "please" in str(episode.turns[-1].answer) else None
