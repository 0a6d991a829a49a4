"""Durable turns per second, and bytes per turn as an episode grows.

    .venv/bin/python benchmarks/recorder.py [--quick]

No HTTP and no model: `Recorder` and `Writer` as the server uses them. Each concurrent writer waits for its commit
before its next turn; histories have 2,000 tokens and more. SQLite and PostgreSQL alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import sqlalchemy as sa

import migrations
from clients.demo.machine import machine
from server.recording.episode import Episode
from server.recording.episodes import Episodes
from server.recording.recorder import NewTurn, Prompt, Recorder, Span
from server.recording.tokens import chain_hash
from server.store.database import Database, new_id
from server.store.writer import Writer
from tests.support.postgres import running_postgres
from upturn.wire import EpisodeOpen

WRITERS, TURNS = 32, 10  # Concurrent writers; turns per episode.
GROWN = 50  # Turns of the episodes whose size is measured.
HISTORY, NEW, ANSWER = 2000, 40, 64  # Tokens: before the first measured turn; prompt and answer per turn.
GOAL = 3000  # Turns per second on SQLite.


class Store:
    """A database with everything needed to record."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._database = Database(url)
        migrations.upgrade(self._database.writer)
        self._writer = Writer(self._database.writer)
        self._episodes = Episodes(self._database, self._writer)
        self._recorder = Recorder(self._writer)
        # Created once: generating content must not be part of the measurement.
        made = random.Random(0)
        self._pool = made.choices(range(300, 40_000), k=100_000)
        self._logprobs = [-made.random() for _ in range(ANSWER)]
        self._text = _text(self._pool)
        self._random = made

    def close(self) -> None:
        """Close the database."""
        self._writer.close()
        self._database.close()

    async def opened(self, count: int) -> list[Episode]:
        """Open episodes and record a history in each."""

        async def one() -> Episode:
            episode, _ = await self._episodes.open(EpisodeOpen(), policy_version=0, horizon=1000)
            await episode.opened()
            await self.record(episode, HISTORY)
            return episode

        return list(await asyncio.gather(*(one() for _ in range(count))))

    async def record(self, episode: Episode, new: int = NEW) -> None:
        """Record one turn that continues the episode's newest."""
        tail = episode.tails.get(episode.newest or "")
        at = self._random.randrange(len(self._pool) - HISTORY)
        new_ids, answer_ids = self._pool[at : at + new], self._pool[at : at + ANSWER]
        message = {"role": "user", "content": self._text[4 * at : 4 * (at + new)]}
        prompt = Prompt(
            ids=(tail.path() if tail else []) + new_ids,
            parent=tail,
            new_ids=new_ids,
            new_messages=[message],
            chain_hash=chain_hash(episode.newest or "", message),
            forked=False,
        )
        await self._recorder.record(
            episode,
            NewTurn(
                id=new_id("turn"),
                index=episode.begin_turn()[0],
                prompt=prompt,
                digest=f"{self._random.getrandbits(256):064x}",
                spans=[Span(0, answer_ids, self._logprobs)],
                answer={"role": "assistant", "content": self._text[4 * at : 4 * (at + ANSWER)]},
            ),
        )

    def bytes(self) -> int:
        """Return the size of the database, without its log."""
        with self._database.writer.connect() as connection:
            if self._database.url.startswith("sqlite"):
                return int(
                    connection.exec_driver_sql(
                        "select page_count * page_size from pragma_page_count, pragma_page_size"
                    ).scalar_one()
                )
            return int(connection.execute(sa.text("select pg_database_size(current_database())")).scalar_one())


def _text(token_ids: list[int]) -> str:
    """Return text of four characters per token, a typical ratio."""
    return "".join(f"{token_id % 1000:03d} " for token_id in token_ids)


async def rate(store: Store, episodes_each: int) -> tuple[float, list[float]]:
    """Record episodes with all writers concurrently; return turns per second and the latency of each turn in ms."""
    episodes = await store.opened(WRITERS * episodes_each)
    waits: list[float] = []

    async def writer(mine: list[Episode]) -> None:
        for episode in mine:
            for _ in range(TURNS):
                began = time.perf_counter()
                await store.record(episode)
                waits.append(1000 * (time.perf_counter() - began))

    began = time.perf_counter()
    await asyncio.gather(*(writer(episodes[number::WRITERS]) for number in range(WRITERS)))
    return len(waits) / (time.perf_counter() - began), waits


async def growth(store: Store, episodes: int) -> dict[str, float]:
    """Grow episodes in parallel; return bytes per turn, by range of turn numbers."""
    growing = await store.opened(episodes)
    sizes = [store.bytes()]
    for _ in range(GROWN):
        await asyncio.gather(*(store.record(episode) for episode in growing))
        sizes.append(store.bytes())
    return {
        f"{first + 1}-{first + 10}": (sizes[first + 10] - sizes[first]) / 10 / episodes for first in range(0, GROWN, 10)
    }


def fsync_ms(folder: Path) -> float:
    """Return the duration of a small durable write in ms, the lower bound of a commit."""
    waits = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(bytes(8192))
            began = time.perf_counter()
            os.fsync(file.fileno())
            waits.append(1000 * (time.perf_counter() - began))
    return statistics.median(waits)


def report(
    stores: list[Store],
    rates: dict[str, list[float]],
    waits: dict[str, list[float]],
    grown: dict[str, dict[str, float]],
    disk_ms: float,
) -> dict[str, Any]:
    """Print the table; return every figure."""
    print(
        f"{machine()}; {WRITERS} writers, histories of {HISTORY} to {HISTORY + TURNS * (NEW + ANSWER)} tokens, "
        f"{NEW} + {ANSWER} new tokens per turn; fsync takes {disk_ms:.1f} ms"
    )
    print(
        "            durable turns/s   wait p50   p95  bytes per turn at turns "
        + "".join(f"{name:>8}" for name in next(iter(grown.values())))
    )
    figures: dict[str, Any] = {
        "machine": machine(),
        "writers": WRITERS,
        "history_tokens": HISTORY,
        "new_tokens": NEW + ANSWER,
        "fsync_ms": disk_ms,
        "goal_sqlite_turns_per_s": GOAL,
    }
    for name in (store.name for store in stores):
        p50, _, p95 = (statistics.quantiles(waits[name], n=20)[at] for at in (9, 14, 18))
        print(
            f"{name:<12}{statistics.median(rates[name]):>15.0f}{p50:>8.1f} ms{p95:>6.1f}{'':>24}"
            + "".join(f"{size:>8.0f}" for size in grown[name].values())
        )
        figures[name] = {
            "turns_per_s": statistics.median(rates[name]),
            "rounds": rates[name],
            "p50_ms": p50,
            "p95_ms": p95,
            "bytes_per_turn": grown[name],
        }
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round with few episodes")
    arguments = parser.parse_args()
    rounds, episodes_each, growing = (1, 5, 32) if arguments.quick else (5, 20, 128)
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="upturn-recorder-")))
        server = closing.enter_context(running_postgres())
        stores = [Store("sqlite", f"sqlite:///{folder / 'upturn.db'}"), Store("postgresql", server.url)]
        for store in stores:
            closing.callback(store.close)
        rates: dict[str, list[float]] = {store.name: [] for store in stores}
        waits: dict[str, list[float]] = {store.name: [] for store in stores}
        for number in range(rounds):
            for store in stores:
                measured, waited = asyncio.run(rate(store, episodes_each))
                rates[store.name].append(measured)
                waits[store.name] += waited
                print(f"round {number + 1} of {rounds}: {store.name} {measured:.0f} turns/s", file=sys.stderr)
        grown = {store.name: asyncio.run(growth(store, growing)) for store in stores}
        print(json.dumps(report(stores, rates, waits, grown, fsync_ms(folder))))


if __name__ == "__main__":
    main()
