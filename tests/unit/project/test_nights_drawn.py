"""The thirty nights' plan, table, plot, and state: what a benchmark of an hour would show too late to be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.thirty_nights import game
from benchmarks.support.thirty_nights.clock import Clock
from benchmarks.support.thirty_nights.plan import EVENTS, FULL, QUICK, TRIGGER, Event, Plan
from benchmarks.support.thirty_nights.state import State
from benchmarks.support.thirty_nights.table import Row, false_promotions, header, line, plot, summary
from benchmarks.support.thirty_nights.users import Reward, Tally
from server.training.run_checks import check_config
from server.training.scheduling.settings import ScheduleSettings

TASKS = [f"vowel/unseen-{number}" for number in range(10)]
WHAT: dict[int, Event] = {2: "loophole", 3: "sabotage", 4: "broken"}


def row(night: int, outcome: str, success: float, **more: Any) -> Row:
    """Return a night on ten tasks, of which the first ones are won always, and the others never."""
    known: dict[str, Any] = {
        "event": WHAT.get(night), "champion": night, "horizon": 2, "live_reward": 0.5, "turns": 100, "lost": 0,
        "twice": 0, "repeated": 3, "failed": 0, "runs": night, "rollbacks": 0, "interrupted_swaps": 0,
    }  # fmt: skip
    tasks = {task: float(at < 10 * success) for at, task in enumerate(TASKS)}
    return Row(night=night, outcome=outcome, tasks=tasks, **{**known, **more})


NIGHTS = [
    row(0, "start", 0.1, live_reward=None, horizon=None, turns=0),
    row(1, "promote", 0.6),
    row(2, "revert", 0.6, found=["no_action"]),
    row(3, "continue", 0.6, by_hand="gate: reject"),
    row(4, "nothing", 0.6),
    row(5, "promote", 0.9),
]


@pytest.mark.parametrize("plan", [FULL, QUICK], ids=["full", "quick"])
def test_each_event_has_a_night_between_the_first_and_the_last_one(plan: Plan) -> None:
    events = plan.events()
    assert set(events.values()) == set(EVENTS) and events == plan.events()
    assert 1 < min(events) <= max(events) < plan.nights
    assert len(events) == len(plan.planted) + plan.kills + plan.swap_kills


@pytest.mark.parametrize("plan", [FULL, QUICK], ids=["full", "quick"])
def test_the_server_accepts_the_run_of_a_night_and_its_trigger(plan: Plan) -> None:
    check_config(plan.run(), "adapter", None)
    (flag,) = [flag for flag in plan.flags(Path("model"), "local") if flag.startswith("--schedule.triggers=")]
    settings = ScheduleSettings(triggers=json.loads(flag.partition("=")[2]))
    assert settings.triggers[TRIGGER].run == plan.run()


def test_the_table_has_a_line_of_the_same_columns_for_each_night() -> None:
    lines = [line(each) for each in NIGHTS]
    assert "95 % interval" in header() and len(header()) == len(lines[0])
    assert lines[0].split()[:6] == ["0", "-", "start", "@0", "-", "10.0%"]
    assert lines[5].split()[:6] == ["5", "-", "promote", "@5", "2", "90.0%"]
    assert lines[2].endswith("no_action") and lines[3].endswith("gate: reject")


def test_all_promises_of_good_nights_are_kept() -> None:
    found = summary(NIGHTS)
    assert len(found["promises"]) == 9 and all(found["promises"].values())
    assert (found["nights"], found["promotions"], found["turns"], found["repeated"]) == (5, 2, 500, 18)
    assert found["gain"] == pytest.approx(0.8) and found["interval"][0] > 0


@pytest.mark.parametrize(
    ("night", "promise"),
    [
        (row(5, "continue", 0.1), "better at the end"),
        (row(5, "promote", 0.9, lost=1), "every answered turn is recorded once"),
        (row(5, "promote", 0.9, twice=1), "every answered turn is recorded once"),
        (row(5, "promote", 0.9, failed=1), "no request failed but those that a kill interrupted"),
        (row(5, "promote", 0.6), "no false promotion"),
        (row(5, "promote", 0.9, runs=6), "each night had one run"),
        (row(2, "promote", 0.7, found=["no_action"]), "the auditor named the loophole"),
        (row(2, "revert", 0.6, found=["turns"]), "the auditor named the loophole"),
        (row(3, "continue", 0.6, by_hand="gate: promote"), "the weights published by hand were rejected"),
        (row(1, "nothing", 0.6), "each night was decided but that of the broken game"),
        (row(4, "promote", 0.7), "a broken game promoted nothing"),
    ],
)
def test_a_bad_night_breaks_its_promise_and_no_other(night: Row, promise: str) -> None:
    rows = [night if each.night == night.night else each for each in NIGHTS]
    promises = summary(rows)["promises"]
    assert [name for name, kept in promises.items() if not kept] == [promise]


def test_a_promotion_is_false_if_success_did_not_rise_on_tasks_that_no_decision_saw() -> None:
    assert false_promotions(NIGHTS) == []
    assert false_promotions([*NIGHTS, row(6, "promote", 0.9), row(7, "promote", 0.5), row(8, "revert", 0.1)]) == [6, 7]


@pytest.mark.parametrize("count", [1, len(NIGHTS)])
def test_the_plot_is_drawn_from_the_first_morning_on(tmp_path: Path, count: int) -> None:
    plot(NIGHTS[:count], tmp_path / "nights.png", "six nights")
    assert (tmp_path / "nights.png").read_bytes().startswith(b"\x89PNG")


def test_the_state_is_read_as_it_was_saved(tmp_path: Path) -> None:
    state = State("local", True, 0.0, 7200.0, night=5, phase="night", struck=True, rows=NIGHTS)
    state.pending, state.tally = [Reward(9000.0, "chatcmpl-turn_1", 0.8, 2)], Tally(["turn_1"], 1, 0)
    state.save(tmp_path / "state.json")
    state.save(tmp_path / "state.json")
    assert State.load(tmp_path / "state.json") == state
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_a_night_begins_with_a_day_and_ends_with_a_morning() -> None:
    state = State("local", True, 0.0, 7200.0, struck=True)
    phases = []
    for _ in range(4):
        phases.append((state.night, state.phase))
        state.advance()
    assert phases == [(0, "morning"), (1, "day"), (1, "night"), (1, "morning")] and not state.struck


def test_a_clock_that_is_set_is_set_for_everyone_who_reads_its_file(tmp_path: Path) -> None:
    mine, theirs = Clock(tmp_path / "clock"), Clock(tmp_path / "clock")
    mine.set(1000.0)
    assert 1000.0 <= theirs.now() < 2000.0
    mine.set(500.0)
    assert 500.0 <= Clock(tmp_path / "clock").now() < 1000.0


def test_the_game_pays_for_nonsense_only_while_it_has_its_loophole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(game.STATE, str(tmp_path / "game"))
    played = game.make_spec().make()
    for state, expected in (("normal", (False, None, True)), ("loophole", (True, True, False))):
        game.set_state(tmp_path / "game", state)
        played.reset("vowel/train-0", 0)
        step = played.step("?!")
        assert (step.terminated, step.success or None, step.valid) == expected
        answers = ("b1", "a1", "a1", "e1", "u")
        assert [played.step(answer).observation for answer in answers] == [
            f"{right} of 3." for right in (0, 1, 1, 2, 3)
        ]
