"""What the benchmark reads from the server's database, from outside the server, also while that is down."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.support.thirty_nights.plan import TRIGGER

BY_HAND = "sabotage"
"""Trigger of the run whose weights are published by hand."""
OUTCOMES = {"promoted": "promote", "continued": "continue", "rejected": "revert"}


@dataclass(frozen=True)
class Decided:
    """A run and the decision on its candidate."""

    run_id: str
    state: str
    over: bool
    """It has ended, and nothing is left to decide."""
    outcome: str
    horizon: int | None
    """Of its last learner step."""
    decision: str | None
    """Last row of the ledger about it, as `gate: reject`."""
    found: list[str]
    """Features that the auditor objects to."""


class Record:
    """A server's database."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def newest(self) -> float:
        """Return the time of the newest turn, in Unix seconds; 0 if there is no turn, or no database yet."""
        if not self._database.exists():
            return 0.0
        return float(self._read("select coalesce(max(created_at), 0) from turn")[0][0])

    def runs(self) -> int:
        """Return how many runs the schedule has started."""
        return int(self._read("select count(*) from run where trigger like ?", f"{TRIGGER}:%")[0][0])

    def run(self, number: int) -> Decided:
        """Return a run that the schedule started, counted from 1."""
        return self._runs(f"{TRIGGER}:%", number - 1)[0]

    def by_hand(self) -> Decided | None:
        """Return the run whose weights were published by hand, if there is one."""
        return next(iter(self._runs(BY_HAND, 0)), None)

    def loading(self) -> bool:
        """Return whether the server is loading a new version."""
        return bool(self._read("select 1 from policy_version where state = 'loading'"))

    def interrupted_swaps(self) -> int:
        """Return how many versions were being loaded when the server died."""
        interrupted = "state = 'failed' and reason like 'the server stopped%'"
        return int(self._read(f"select count(*) from policy_version where {interrupted}")[0][0])

    def champion(self) -> int:
        """Return the version that users get."""
        return int(self._read("select to_version from promotion order by id desc limit 1")[0][0])

    def rollbacks(self) -> int:
        """Return how often the watch rolled a promotion back."""
        found = self._read("select count(*) from promotion where action = 'rollback' and decided_by = 'watch'")
        return int(found[0][0])

    def success(self, play_id: str) -> dict[str, float]:
        """Return the success of each task of a play."""
        return dict(
            self._read(
                "select task, avg(success) from episode where play_id = ? and success is not null group by task",
                play_id,
            )
        )

    def missing(self, turns: list[str]) -> int:
        """Return how many of the turns that users got are not recorded."""
        recorded = self._read("select id from turn where id in (select value from json_each(?))", json.dumps(turns))
        return len(set(turns) - {turn for (turn,) in recorded})

    def surplus(self, turns: list[str]) -> int:
        """Return how many turns are recorded in the users' conversations beyond those that they got."""
        query = (
            "select count(*) from turn where episode_id in "
            "(select episode_id from turn where id in (select value from json_each(?)))"
        )
        return int(self._read(query, json.dumps(turns))[0][0]) - len(set(turns))

    def live_reward(self, turns: list[str]) -> float | None:
        """Return the mean reward that users gave to the conversations of some turns."""
        query = (
            "select avg(value) from reward where episode_id in "
            "(select episode_id from turn where id in (select value from json_each(?)))"
        )
        mean: float | None = self._read(query, json.dumps(turns))[0][0]
        return mean

    def _runs(self, trigger: str, after: int) -> list[Decided]:
        query = "select id, state, gate, ended_at from run where trigger like ? order by created_at limit 1 offset ?"
        return [self._decided(*run) for run in self._read(query, trigger, after)]

    def _decided(self, run_id: str, state: str, gate: str | None, ended_at: float | None) -> Decided:
        horizons = self._read(
            "select horizon from batch where run_id = ? and state = 'trained' order by step desc limit 1", run_id
        )
        ledger = self._read(
            "select action, decided_by, evidence from promotion where run_id = ? order by id desc limit 1", run_id
        )
        evidence = json.loads(ledger[0][2] or "{}") if ledger else {}
        return Decided(
            run_id=run_id,
            state=state,
            over=ended_at is not None and gate != "due",
            outcome=OUTCOMES.get(gate or "", "nothing"),
            horizon=horizons[0][0] if horizons else None,
            decision=f"{ledger[0][1]}: {ledger[0][0]}" if ledger else None,
            found=[finding["feature"] for finding in evidence.get("audit", []) if finding["flagged"]],
        )

    def _read(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._database, timeout=60)) as connection:
            return connection.execute(query, values).fetchall()
