"""Time of each route at the size of the record: 1,000 turns, 10,000, 100,000, a million.

    .venv/bin/python benchmarks/at_size.py [--quick] [--turns 1000 10000] [--calls 200]

The scripted engine answers, so the time is the server's own. Half of the episodes are open, ten belong to each group,
and all begin alike: the hardest case for finding a conversation. SQLite; requests are sent one after the other,
in-process, without a socket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import sqlalchemy as sa

import migrations
from clients.demo.machine import machine
from server.recording.keys import hash_of
from server.recording.matching.talk import Hints, Talk
from server.recording.tokens import chain_hashes, pack_ids, pack_logprobs
from server.store.database import Database, id_at
from server.store.tables import ConversationEndRow, EpisodeRow, NodeRow, RewardRow, TurnRow
from tests.support.live import InProcess, in_process, script, settings_for

KEY = "sk-busy"
ANSWERS = ("go north", "take the key", "open the door", "go on")
TURNS = 2  # Of each recorded episode.
CHUNK = 2_000  # Episodes per transaction.

Rows = dict[Any, list[dict[str, Any]]]


def fill(database: Database, turns: int) -> None:
    """Record episodes of one key as the server would, with `turns` turns in all."""
    owner, started = hash_of(KEY), time.time() - turns / 10
    talk = [_user("Start"), _answer(0), _user("On."), _answer(1)]
    ends = Talk.of(talk, [], owner, Hints())
    hashes = chain_hashes(talk)
    count = turns // TURNS
    for first in range(0, count, CHUNK):
        rows: Rows = {table: [] for table in (EpisodeRow, TurnRow, NodeRow, ConversationEndRow, RewardRow)}
        for number in range(first, min(first + CHUNK, count)):
            _episode(rows, number, started + number * TURNS / 10, owner, talk, hashes, ends)
        with database.writer.begin() as connection:
            for table, values in rows.items():
                if values:
                    connection.execute(sa.insert(table), values)


def _episode(
    rows: Rows,
    number: int,
    at: float,
    owner: str,
    talk: list[Any],
    hashes: list[str],
    ends: Talk,
) -> None:
    is_open = number % 2 == 0
    episode = f"{id_at('ep', at)}{number:012x}"
    rows[EpisodeRow].append(
        {
            "id": episode, "status": "open" if is_open else "closed", "seed": 0, "horizon": 100, "purpose": "other",
            "policy_version": 0, "trainable": True, "details": {"number": number}, "owner_hash": owner,
            "group_key": f"group {number // 10}", "key_hash": f"{number:064x}", "opened_at": at,
            "closed_at": None if is_open else at + 1,
        }
    )  # fmt: skip
    for index in range(TURNS):
        turn, node = f"{id_at('turn', at)}{number * TURNS + index:012x}", 2 * (number * TURNS + index) + 1
        rows[TurnRow].append(
            {
                "id": turn, "episode_id": episode, "index": index, "digest": f"{number}-{index}", "choice": 0,
                "messages": talk[2 * index : 2 * index + 1], "answer": talk[2 * index + 1], "finish_reason": "stop",
                "prompt_tokens": 20, "completion_tokens": 8, "policy_version": 0, "temperature": 1.0, "trainable": True,
                "forked": False, "duration_ms": 1.0, "created_at": at,
            }
        )  # fmt: skip
        for sampled in (False, True):
            rows[NodeRow].append(
                {
                    "id": node + sampled, "episode_id": episode, "turn_id": turn,
                    "parent_id": node if sampled else node - 1 if index else None,
                    "token_ids": pack_ids(range(8)), "logprobs": pack_logprobs([-0.5] * 8) if sampled else None,
                    "sampled": sampled, "policy_version": 0 if sampled else None,
                    "chain_hash": hashes[2 * index + 1] if sampled else None,
                }
            )  # fmt: skip
        end = 2 * index + 1
        rows[ConversationEndRow].append(
            {
                "turn_id": turn, "episode_id": episode, "exact": ends.exact[end], "loose": ends.loose[end],
                "state": 0 if not is_open else 1 if index + 1 < TURNS else 3, "ambiguous": False,
            }
        )  # fmt: skip
    if not is_open:
        given = {"value": number % 2, "source": "user", "created_at": at}
        rows[RewardRow].append({"id": f"rw_{number:012x}", "episode_id": episode, **given})


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _answer(index: int) -> dict[str, Any]:
    return {"role": "assistant", "content": ANSWERS[index]}


async def measure(server: InProcess, calls: int) -> dict[str, list[float]]:
    """Return the milliseconds of each route's calls."""
    caller = server.caller(KEY)
    episodes = (await caller.http.get("/v1/episodes", params={"limit": 100, "status": "open"})).json()["data"]
    named = [{"x-episode-id": episode["id"]} for episode in episodes]
    start = [_user("Start")]
    own = [[*start, _answer(0), _user(f"I see {number}."), _answer(1), _user("And?")] for number in range(calls)]

    async def get(path: str, **params: Any) -> None:
        answer = await caller.http.get(path, params=params)
        assert answer.status_code == 200, answer.text

    async def reward(number: int) -> None:
        body = {"id": episodes[number % len(episodes)]["id"], "value": 0.5}
        assert (await caller.http.post("/v1/rewards", json=body)).status_code == 201

    routes: dict[str, Callable[[int], Awaitable[Any]]] = {
        "chat, new": lambda _: caller.chat(start),
        "chat, continues one of many": lambda number: caller.chat(own[number][:3]),
        "chat, continues its own": lambda number: caller.chat(own[number]),
        "chat, unknown history": lambda number: caller.chat([*start, _user(f"{number}"), _answer(3), *start]),
        "chat, named and not in memory": lambda number: caller.chat(start, named[number % len(named)]),
        "chat, a retry": lambda _: caller.chat(start, {"x-stainless-retry-count": "1"}),
        "list": lambda _: get("/v1/episodes"),
        "list by status": lambda _: get("/v1/episodes", status="closed"),
        "list by group": lambda _: get("/v1/episodes", group="group 1"),
        "transcript": lambda number: get(f"/v1/episodes/{episodes[number % len(episodes)]['id']}"),
        "reward": reward,
    }
    times: dict[str, list[float]] = {}
    for name, call in routes.items():
        times[name] = []
        for number in range(calls):
            began = time.perf_counter()
            await call(number)
            times[name].append(1000 * (time.perf_counter() - began))
    return times


async def run(turns: int, calls: int) -> dict[str, list[float]]:
    """Fill a database and measure a server on it."""
    with tempfile.TemporaryDirectory() as home:
        directory = Path(home)
        (directory / "data").mkdir()
        database = Database(f"sqlite:///{directory / 'data' / 'upturn.db'}")
        migrations.upgrade(database.writer)
        fill(database, turns)
        database.close()
        model = script(directory / "script", *ANSWERS)
        async with in_process(settings_for(directory / "data", model=str(model))) as server:
            await server.parts.statistics.refresh()
            return await measure(server, calls)


def main() -> None:
    """Print a table of p50 and p95 for each route and size, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 turns, 50 calls")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.turns, arguments.calls = [1_000, 10_000], 50
    found = {turns: asyncio.run(run(turns, arguments.calls)) for turns in arguments.turns}
    print("| milliseconds, p50 / p95 | " + " | ".join(f"{turns:,} turns" for turns in found) + " |")
    print("|---" * (len(found) + 1) + "|")
    figures: dict[str, dict[str, list[float]]] = {}
    for route in next(iter(found.values())):
        figures[route] = {
            str(turns): [statistics.median(times[route]), statistics.quantiles(times[route], n=20)[-1]]
            for turns, times in found.items()
        }
        cells = [f"{median:.1f} / {worst:.1f}" for median, worst in figures[route].values()]
        print(f"| {route} | " + " | ".join(cells) + " |")
    print(json.dumps({"machine": machine(), "calls": arguments.calls, "ms_p50_p95": figures}))


if __name__ == "__main__":
    main()
