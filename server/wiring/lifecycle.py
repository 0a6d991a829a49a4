"""The order in which a server's parts start and close: the whole list, on one page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from server.wiring.parts import Parts

log = logging.getLogger("upturn")


async def start(parts: Parts, own_url: Callable[[], str] | None) -> None:
    """Start the parts: first recover from a crash, then let versions serve, then start the background work.

    Args:
        parts: the parts; if one fails to start, `close` still closes all of them.
        own_url: returns the URL at which a learner finds this server.
    """
    parts.log_files.start()
    await parts.episodes.fail_interrupted()
    await parts.plays.fail_interrupted()
    await parts.reward_sources.start()
    await parts.serving.start()
    await parts.notifications.start()
    parts.gate.start()
    parts.watch.start()
    parts.shadow.start()
    parts.serving.residency.start()
    await parts.schedule.start()
    parts.index.start()
    parts.statistics.start()
    parts.retention.start()
    parts.idle.start()
    parts.scorers.start()
    parts.otlp.start()
    parts.tracker.start()
    if parts.learner and own_url:
        parts.learner.start(own_url())


async def drain(parts: Parts) -> None:
    """Refuse new calls, stop background work, and let calls in progress finish for at most `drain_s`; cut the rest.

    What was sampled of an answer that is cut is recorded. Until `close`, the server answers reads and its own learner.
    """
    parts.draining.begun = True
    stopping = asyncio.create_task(_stop_background_work(parts))
    await parts.draining.wait(parts.settings.drain_s)
    await parts.turns.drain()
    await asyncio.wait([stopping])
    if stopping.exception() is not None:
        log.error("background work did not stop", exc_info=stopping.exception())


async def close(parts: Parts) -> None:
    """Close the parts, started or not: first sources of new work, then work in progress, last engine and database."""
    parts.draining.begun = True
    await _stop_background_work(parts)
    await parts.turns.drain()
    await parts.index.close()
    await parts.environments.close()
    await parts.engine.close()
    await parts.log_files.close()
    parts.writer.close()
    parts.store.close()


async def _stop_background_work(parts: Parts) -> None:
    """Stop everything that works without being called; what has stopped already stays so."""
    await parts.rehearsals.close()
    await parts.scorers.close()
    await parts.gate.close()
    await parts.watch.close()
    await parts.shadow.close()
    await parts.serving.residency.close()
    await parts.schedule.close()
    await parts.notifications.close()
    parts.statistics.close()
    parts.retention.close()
    parts.idle.close()
    parts.otlp.close()
    parts.tracker.close()
    if parts.learner:
        await parts.learner.close()
    await parts.plays.close()
