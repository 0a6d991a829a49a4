"""A database with many recorded episodes, filled in bulk: half of them are open, and all begin alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from server.recording.keys import hash_of
from server.recording.matching.candidates import ENDED, FOLLOWED, FREE
from server.recording.matching.talk import Hints, Talk
from server.recording.tokens import chain_hashes, pack_ids, pack_logprobs
from server.store.database import Database, id_at
from server.store.tables import ConversationEndRow, EpisodeRow, NodeRow, RewardRow, TurnRow

KEY = "sk-busy"
ANSWERS = ("go north", "take the key", "open the door", "go on")
TURNS = 2  # Of each recorded episode.
CHUNK = 2_000  # Episodes per transaction.

Rows = dict[Any, list[dict[str, Any]]]


def fill(database: Database, turns: int) -> None:
    """Record episodes of one key as the server would, with `turns` turns in all."""
    owner, started = hash_of(KEY), time.time() - turns / 10
    talk = [user("Start"), answer(0), user("On."), answer(1)]
    ends = Talk.of(talk, [], owner, Hints())
    hashes = chain_hashes(talk)
    count = turns // TURNS
    for first in range(0, count, CHUNK):
        rows: Rows = {table: [] for table in (EpisodeRow, TurnRow, NodeRow, ConversationEndRow, RewardRow)}
        for number in range(first, min(first + CHUNK, count)):
            _episode(rows, number, started + number * TURNS / 10, owner, talk, hashes, ends)
        with _unsafely(database) as connection:
            for table, values in rows.items():
                if values:
                    connection.execute(sa.insert(table), values)


@contextmanager
def _unsafely(database: Database) -> Iterator[sa.Connection]:
    """Open a transaction that SQLite does not wait for: a filling that a crash interrupts is begun again."""
    with database.writer.connect() as connection:
        if connection.dialect.name == "sqlite":
            raw = connection.connection.driver_connection
            assert raw is not None
            for pragma in ("synchronous=OFF", "secure_delete=OFF", "cache_size=-500000"):
                raw.execute(f"PRAGMA {pragma}")
        with connection.begin():
            yield connection


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
                "state": ENDED if not is_open else FOLLOWED if index + 1 < TURNS else FREE, "ambiguous": False,
            }
        )  # fmt: skip
    if not is_open:
        given = {"value": number % 2, "source": "user", "created_at": at}
        rows[RewardRow].append({"id": f"rw_{number:012x}", "episode_id": episode, **given})


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(index: int) -> dict[str, Any]:
    return {"role": "assistant", "content": ANSWERS[index]}
