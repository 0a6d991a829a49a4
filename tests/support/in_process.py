"""A server's parts in the test's own event loop: no HTTP, and no background work that a test has not asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import migrations
from server.engines.protocol import SamplingParams
from server.engines.scripted import scripted_logprobs
from server.recording.episode import Episode
from server.recording.turn_request import TurnRequest
from server.settings import Settings
from server.store.base import Base
from server.store.database import Database
from server.wiring import lifecycle
from server.wiring.parts import Parts, build
from server.wiring.store import open_store
from tests.support.live import script
from upturn.manifest import write_manifest
from upturn.wire import EpisodeOpen, PolicyPublish, Probe, RunClaim, RunConfig, RunView

PROBE = list(range(32, 126)) * 2


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Parts]:
    """Build the parts of a server, and let its versions serve, until the block ends."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if not (database := settings.data_dir / "upturn.db").exists():
        database.write_bytes(_new_database())
    parts = await build(settings, await asyncio.to_thread(open_store, settings), learns=False)
    try:
        await parts.reward_sources.start()
        await parts.serving.start()
        yield parts
    finally:
        await lifecycle.close(parts)


@cache
def _new_database() -> bytes:
    """Return an empty database of the newest revision, which costs less to copy than to migrate."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "new.db"
        database = Database(f"sqlite:///{file}")
        migrations.upgrade(database.writer)
        database.close()
        return file.read_bytes()


class Held:
    """Lets every answer of an engine wait until `go` is set.

    Args:
        parts: the parts whose engine waits.
        monkeypatch: ends that after the test.
    """

    def __init__(self, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.go = asyncio.Event(), asyncio.Event()
        self.params: list[SamplingParams] = []
        """The parameters of each answer."""
        real = parts.engine.generate

        async def generate(version: int, prompt_ids: list[int], params: SamplingParams, **more: Any) -> Any:
            self.params.append(params)
            self.began.set()
            await self.go.wait()
            async for piece in real(version, prompt_ids, params, **more):
                yield piece

        monkeypatch.setattr(parts.engine, "generate", generate)


def chat(*texts: str, **more: Any) -> TurnRequest:
    """Return the request of a conversation in which user and assistant alternate; the user begins."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    sampling = more.pop("sampling", SamplingParams(100))
    return TurnRequest(messages, sampling, whole=True, **more)


async def opened(parts: Parts, horizon: int = 5, version: int = 0, **more: Any) -> Episode:
    """Open an episode whose row is written."""
    episode, _ = await parts.episodes.open(EpisodeOpen(), policy_version=version, horizon=horizon, **more)
    await episode.opened()
    return episode


def rows(parts: Parts, table: type[Base], *where: Any) -> list[Any]:
    """Return rows of a table in the order of their keys."""
    with Session(parts.database.reader) as session:
        return list(session.scalars(sa.select(table).where(*where).order_by(*sa.inspect(table).primary_key)))


async def queued(parts: Parts, **config: Any) -> RunView:
    """Create a run."""
    kind = "full" if parts.pointers.shared else "adapter"
    return await parts.runs.create(RunConfig.model_validate({"steps": 2, "kind": kind, **config}), "request")


async def claimed(parts: Parts, **config: Any) -> RunView:
    """Create a run and claim it for the learner `tester`."""
    run = await queued(parts, **config)
    taken = await parts.runs.claim(RunClaim(learner="tester", run_id=run.id))
    assert taken is not None
    return taken


async def settled(parts: Parts) -> None:
    """Let every task of the event loop run as far as it can without an event that the test holds back."""
    for _ in range(20):
        await parts.writer.write(lambda session: None)
        await asyncio.to_thread(lambda: None)


def publication(parts: Parts, answer: str, run_id: str, step: int = 0) -> PolicyPublish:
    """Write a version that gives this answer; return the request that publishes it."""
    directory = script(Path(parts.settings.data_dir) / "versions" / f"{run_id}-{step}-{answer}", answer)
    kind = "full" if parts.pointers.shared else "adapter"
    return PolicyPublish(
        run_id=run_id,
        learner="tester",
        step=step,
        path=str(directory),
        manifest_sha256=write_manifest(directory, {"kind": kind}),
        probe=Probe(token_ids=PROBE, logprobs=scripted_logprobs(directory, PROBE)),
    )
