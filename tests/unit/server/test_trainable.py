"""Reasons why turns are untrainable, in a sentence for people."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from server.commands.doctor import turns_check
from server.recording.trainable import summary


@pytest.mark.parametrize(
    ("recent", "reasons", "said"),
    [
        (0, {}, "no turn yet"),
        (3, {}, "all of the last 3 turns are trainable"),
        (4, {"greedy": 1}, "25% of the last 4 turns are untrainable because: 1 greedy (temperature 0)"),
        (
            4,
            {"logprobs_missing": 1, "truncated_sampling": 3},
            "100% of the last 4 turns are untrainable because: 3 truncated_sampling (top_p or top_k), "
            "1 logprobs_missing",
        ),
    ],
)
def test_a_summary_names_the_share_and_the_reasons(recent: int, reasons: dict[str, int], said: str) -> None:
    assert summary(recent, reasons) == said


@pytest.mark.parametrize("greedy", [0, 5, 10])
def test_doctor_says_how_many_of_the_last_turns_are_untrainable(tmp_path: Path, greedy: int) -> None:
    file = tmp_path / "upturn.db"
    with sqlite3.connect(file) as connection:
        connection.execute("create table turn (id text, untrainable_reason text)")
        reasons = ["greedy"] * greedy + [None] * (10 - greedy)
        connection.executemany("insert into turn values (?, ?)", [(str(n), r) for n, r in enumerate(reasons)])
    connection.close()
    check = turns_check(f"sqlite:///{file}")
    assert check.result == "pass" and check.figure == summary(10, {"greedy": greedy} if greedy else {})


def test_doctor_on_a_database_without_turns_passes(tmp_path: Path) -> None:
    file = tmp_path / "upturn.db"
    with sqlite3.connect(file) as connection:
        connection.execute("create table turn (id text, untrainable_reason text)")
    connection.close()
    assert (turns_check(f"sqlite:///{file}").result, turns_check(f"sqlite:///{file}").figure) == ("pass", "no turn yet")
