"""The Python clients: `Client` blocks, `AsyncClient` awaits. Both have the operations of `operations/`.

Lists with pages are iterators too (`iter_episodes`, `iter_tasks`), and so is the progress of a play or a run
(`follow_play`, `follow_run`). `calls.py` has the one rule for retries.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Unpack, overload

from upturn.calls import UpturnAPIError
from upturn.episode import AsyncEpisode, Episode, Opening
from upturn.operations import Operations
from upturn.transport import AsyncTransport, Transport
from upturn.wire import EpisodeOpen, EpisodeView

__all__ = ["AsyncClient", "AsyncEpisode", "Client", "Episode", "UpturnAPIError"]


class Client(Operations, Transport):
    """Every operation of a server. `Transport` documents the constructor."""

    @overload
    def episode(self, episode_id: str, /) -> EpisodeView: ...

    @overload
    def episode(self, /, **opening: Unpack[Opening]) -> Episode: ...

    def episode(self, episode_id: str | None = None, /, **opening: Any) -> EpisodeView | Episode:
        """Open an episode for a `with` block: `with client.episode(environment="textcraft", task=task) as episode:`.

        Args:
            episode_id: a recorded episode, to read it instead: the same as `transcript(episode_id)`.
            opening: fields of `EpisodeOpen`; without an environment, the episode is a live agent's.
        """
        return Episode(self, EpisodeOpen(**opening)) if episode_id is None else self.transcript(episode_id)


class AsyncClient(Operations, AsyncTransport):
    """Every operation of a server, awaited. `AsyncTransport` documents the constructor."""

    @overload
    def episode(self, episode_id: str, /) -> Coroutine[Any, Any, EpisodeView]: ...

    @overload
    def episode(self, /, **opening: Unpack[Opening]) -> AsyncEpisode: ...

    def episode(
        self, episode_id: str | None = None, /, **opening: Any
    ) -> Coroutine[Any, Any, EpisodeView] | AsyncEpisode:
        """Open an episode for an `async with` block.

        Args:
            episode_id: a recorded episode, to read it instead: the same as `transcript(episode_id)`.
            opening: fields of `EpisodeOpen`; without an environment, the episode is a live agent's.
        """
        return AsyncEpisode(self, EpisodeOpen(**opening)) if episode_id is None else self.transcript(episode_id)
