"""The order in which a server's parts start and close: the whole list, on one page."""

from __future__ import annotations

from collections.abc import Callable

from server.wiring.parts import Parts


async def start(parts: Parts, own_url: Callable[[], str] | None) -> None:
    """Start the parts: first recover from a crash, then let versions serve, then start the background work.

    Args:
        parts: the parts; if one fails to start, `close` still closes all of them.
        own_url: returns the URL at which a learner finds this server.
    """
    await parts.episodes.fail_interrupted()
    await parts.plays.fail_interrupted()
    await parts.reward_sources.start()
    await parts.serving.start()
    parts.gate.start()
    parts.watch.start()
    parts.shadow.start()
    parts.serving.residency.start()
    await parts.schedule.start()
    parts.retention.start()
    parts.scorers.start()
    if parts.learner and own_url:
        parts.learner.start(own_url())


async def close(parts: Parts) -> None:
    """Close the parts, started or not: first sources of new work, then work in progress, last engine and database."""
    await parts.scorers.close()
    await parts.gate.close()
    await parts.watch.close()
    await parts.shadow.close()
    await parts.serving.residency.close()
    await parts.schedule.close()
    parts.retention.close()
    if parts.learner:
        await parts.learner.close()
    await parts.plays.close()
    await parts.turns.drain()
    await parts.environments.close()
    await parts.engine.close()
    parts.writer.close()
    parts.store.close()
