"""Reasons why turns are untrainable, in a sentence for people."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest

from server.commands.doctor import turns_check
from server.engines.protocol import SamplingParams
from server.recording.recorder import Span
from server.recording.trainable import summary, untrainable_reason


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


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([[-0.5, 0.0]], None),
        ([[-0.5], [-0.25, -90.0]], None),
        ([[-0.5, math.nan]], "logprobs_not_finite"),
        ([[-0.5], [-math.inf, -0.5]], "logprobs_not_finite"),
        ([[-0.5], None], "logprobs_missing"),
        ([], "empty"),
    ],
    ids=["one span", "two spans", "NaN", "infinite", "missing", "empty"],
)
def test_an_answer_is_trainable_only_if_every_token_has_a_finite_logprob(
    spans: list[list[float] | None], reason: str | None
) -> None:
    sampled = [Span(1, [7] * len(one or [0]), one) for one in spans]
    params = SamplingParams(100)
    assert untrainable_reason(params, sampled, finish_reason="stop", abandoned=False) == reason
    missing = [Span(1, [7, 7], [-0.5])]
    assert untrainable_reason(params, missing, finish_reason="stop", abandoned=False) == "logprobs_missing"


def test_the_reason_of_the_whole_answer_comes_before_those_of_its_tokens() -> None:
    params, broken = SamplingParams(100, temperature=0.0), [Span(1, [7], [math.nan])]
    for finish, abandoned, ambiguous, reason in (
        ("abort", True, True, "ambiguous_episode"),
        ("abort", True, False, "disconnected"),
        ("abort", False, False, "aborted"),
        ("stop", False, False, "logprobs_not_finite"),
    ):
        found = untrainable_reason(params, broken, finish_reason=finish, abandoned=abandoned, ambiguous=ambiguous)
        assert found == reason
    whole = [Span(1, [7], [-0.5])]
    assert untrainable_reason(params, whole, finish_reason="stop", abandoned=False) == "greedy"
