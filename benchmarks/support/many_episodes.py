"""A database of many different episodes, for measuring what people look at: filled in bulk, without the server."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from server.recording.keys import hash_of
from server.recording.tokens import pack_ids, pack_logprobs
from server.store.database import Database, id_at
from server.store.tables import (
    BatchRow,
    EpisodeRow,
    MetricRow,
    NodeRow,
    PlayRow,
    RewardRow,
    RunEpisodeRow,
    RunRow,
    StepRow,
    TurnRow,
)

KEY = "sk-busy"
DAYS = 30
TURNS = 3
"""Turns of an episode; the last one of the database has `LONG`."""
LONG = 64
BATCH = 64
"""Episodes of a learner step."""
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "ei", "o", "u") for c in ("n", "rt", "lix", "sto", "da")]
RARE = "xylophone"
"""A word of one episode in a thousand."""
ENVIRONMENTS = ("textcraft", "babyai", "search", None)
CHUNK = 1000

Rows = dict[Any, list[dict[str, Any]]]
TABLES = (RunRow, PlayRow, BatchRow, MetricRow, EpisodeRow, TurnRow, NodeRow, StepRow, RewardRow, RunEpisodeRow)


def fill(database: Database, count: int) -> str:
    """Record episodes of the last 30 days, half of them played for the learner steps of a run; return the run's id."""
    chance, now = random.Random(0), time.time()
    with database.writer.connect() as connection:
        raw: Any = connection.connection.driver_connection
        for pragma in ("synchronous=OFF", "secure_delete=OFF", "cache_size=-500000"):
            raw.execute(f"PRAGMA {pragma}")
        for first in range(0, count, CHUNK):
            rows: Rows = {table: [] for table in TABLES}
            if first == 0:
                rows[RunRow].append(_run(now, count))
            for number in range(first, min(first + CHUNK, count)):
                at = now - DAYS * 86_400 * (1 - number / count)
                _episode(rows, number, at, chance, LONG if number == count - 1 else TURNS)
            with connection.begin():
                for table, values in rows.items():
                    for part in (values[at : at + 500] for at in range(0, len(values), 500)):
                        connection.execute(sa.insert(table), part)
    return "run_1"


def _run(now: float, count: int) -> dict[str, Any]:
    config = {"algorithm": "grpo", "steps": count // 2 // BATCH}
    about = {"state": "running", "trigger": "request", "active_s": 0.0, "first_step": 0, "attempt": 0}
    at = now - DAYS * 86_400
    return {"id": "run_1", "config": config, "step": 0, "collapsed": False, "created_at": at, "started_at": at, **about}


def _episode(rows: Rows, number: int, at: float, chance: random.Random, turns: int) -> None:
    played, environment = number % 2 == 0, chance.choice(ENVIRONMENTS)
    episode = f"{id_at('ep', at)}{number:012x}"
    version, succeeded = number // 2000, chance.random() < 0.4
    ended = played or number % 5 > 0
    step = number // 2 // BATCH
    rows[EpisodeRow].append(
        {
            "id": episode, "status": ("terminated" if environment else "closed") if ended else "open", "seed": 0,
            "environment": environment or ("textcraft" if played else None),
            "task": f"task {number % 500}" if environment or played else None, "horizon": 10,
            "purpose": "training" if played else "other", "policy_version": version, "trainable": True,
            "success": succeeded if environment or played else None, "details": {"user": f"u{number % 97}"},
            "play_id": f"play_{step}" if played else None, "owner_hash": None if played else hash_of(KEY),
            "opened_at": at, "closed_at": at + 60 if ended else None, "group_key": f"g{number // 8}",
        }
    )  # fmt: skip
    if played and number // 2 % BATCH == 0:
        _step(rows, step, at, version)
    for index in range(turns):
        _turn(rows, number, index, episode, at, version, chance)
    if environment or played:
        reward = {"episode_id": episode, "action": "go", "observation": _said(chance, 10), "reward": float(succeeded)}
        rows[StepRow].append(
            {"index": 0, "terminated": True, "truncated": False, "info": {}, "created_at": at, **reward}
        )
    elif number % 3 == 0:
        given = {"value": chance.uniform(-1, 1), "source": "user", "created_at": at}
        rows[RewardRow].append({"id": f"rw_{number:012x}", "episode_id": episode, **given})
    if played:
        used = {"run_id": "run_1", "batch_id": f"batch_{step}", "reward": 1.0, "advantage": 0.5, "weight": 9.0}
        rows[RunEpisodeRow].append({"episode_id": episode, **used})


def _step(rows: Rows, step: int, at: float, version: int) -> None:
    request = {"tasks": ["t"], "group_size": 8}
    rows[PlayRow].append({"id": f"play_{step}", "state": "done", "request": request, "created_at": at})
    rows[BatchRow].append(
        {
            "id": f"batch_{step}", "run_id": "run_1", "step": step, "horizon": 10, "state": "trained", "stats": {},
            "play_id": f"play_{step}", "policy_version": version, "created_at": at,
        }
    )  # fmt: skip
    for name in ("loss", "entropy", "mean_reward", "success_rate", "lr", "grad_norm", "mismatch_kl", "trained_tokens"):
        rows[MetricRow].append({"run_id": "run_1", "step": step, "name": name, "value": 0.5, "created_at": at})


def _turn(rows: Rows, number: int, index: int, episode: str, at: float, version: int, chance: random.Random) -> None:
    place = number * (LONG + 1) + index
    turn, node = f"{id_at('turn', at)}{place:012x}", 2 * place + 1
    reason = chance.choice(("greedy", "disconnected", "truncated_sampling")) if chance.random() < 0.02 else None
    said = _said(chance, 30) + (f" {RARE}" if number % 1000 == 7 and index == 0 else "")
    rows[TurnRow].append(
        {
            "id": turn, "episode_id": episode, "index": index, "digest": f"{place}", "choice": 0,
            "messages": [{"role": "user", "content": said}], "finish_reason": "stop",
            "answer": {"role": "assistant", "content": _said(chance, 15)}, "prompt_tokens": 40 * (index + 1),
            "completion_tokens": 20, "policy_version": version, "temperature": 1.0, "trainable": reason is None,
            "untrainable_reason": reason, "forked": False, "duration_ms": 1.0, "created_at": at + index,
        }
    )  # fmt: skip
    for sampled in (False, True):
        ids = [chance.randrange(32, 127) for _ in range(20 if sampled else 40)]
        rows[NodeRow].append(
            {
                "id": node + sampled, "episode_id": episode, "turn_id": turn,
                "parent_id": node if sampled else node - 1 if index else None, "token_ids": pack_ids(ids),
                "logprobs": pack_logprobs([-0.5] * 20) if sampled else None, "sampled": sampled,
                "policy_version": version if sampled else None, "chain_hash": None,
            }
        )  # fmt: skip


def _said(chance: random.Random, words: int) -> str:
    return " ".join(_pick(chance) for _ in range(words))


def _pick(chance: random.Random) -> str:
    return WORDS[int(len(WORDS) * chance.random() ** 2)]


def queries(run_id: str, now: float, middle: str, longest: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield page, what it asks, path, and parameters, for every query of every page."""
    common, day = WORDS[0], 86_400.0
    lists: dict[str, dict[str, Any]] = {
        "newest": {},
        "deep": {"after": middle},
        "environment": {"environment": "babyai"},
        "no such environment": {"environment": "nowhere"},
        "task": {"environment": "textcraft", "task": "task 7"},
        "live, open": {"live": True, "status": "open"},
        "not succeeded": {"success": False},
        "version": {"version": 3},
        "reward": {"reward_from": 0.9, "reward_to": 0.95},
        "reward, none": {"reward_from": 5},
        "untrainable, any": {"untrainable": "any"},
        "untrainable, a reason": {"untrainable": "disconnected"},
        "untrainable, none": {"untrainable": "nothing"},
        "run and step": {"run": run_id, "step": 5},
        "run, not succeeded": {"run": run_id, "success": False},
        "key": {"key": "me"},
        "last day": {"opened_from": now - day},
        "metadata": {"metadata": "user=u5"},
        "text, rare": {"text": RARE},
        "text, common": {"text": common},
        "text, phrase": {"text": f"{WORDS[1]} {WORDS[2]}"},
        "text, nowhere": {"text": "nowhere at all"},
        "text, common and rare version": {"text": common, "version": 3},
        "text, common and no reward": {"text": common, "reward_from": 5},
        "text, phrase of the last day": {"text": f"{WORDS[1]} {WORDS[2]}", "opened_from": now - day},
    }
    for name, filters in lists.items():
        yield "episodes", name, "/v1/episodes", {"limit": 50, **filters}
    yield "home", "status", "/v1/status", {}
    yield "home", "a day", "/v1/stats", {}
    yield "home", "a month", "/v1/stats", {"from": now - DAYS * day}
    yield "learning", "steps of a run", f"/v1/runs/{run_id}/steps", {}
    yield "learning", "its last step", f"/v1/runs/{run_id}/steps", {"first": 10**6}
    yield "episode", f"{TURNS} turns", f"/v1/episodes/{middle}", {"tokens": False}
    yield "episode", f"{TURNS} turns, tokens", f"/v1/episodes/{middle}", {"tokens": True}
    yield "episode", f"{LONG} turns", f"/v1/episodes/{longest}", {"tokens": False}
    yield "episode", f"{LONG} turns, tokens", f"/v1/episodes/{longest}", {"tokens": True}
