"""A step or run that had nothing to learn says so, why, and what to do; no figure is ever `nan`."""

from __future__ import annotations

import io

import pytest

from clients.demo.progress import step_text
from tests.support.runs.shown import run_view
from upturn.command.progress import Pace, ProgressLine, duration, play_text
from upturn.command.runs import step_line
from upturn.outcome import nothing_to_learn, outcome
from upturn.wire import PlayView, RunStep

ALIKE = {"skipped": 1.0, "trained_tokens": 0.0, "episodes": 80.0, "groups_without_variance": 10.0, "success_rate": 0.4}
EQUAL = {"skipped": 1.0, "episodes": 6.0, "groups": 6.0}
TRAINED = {"loss": 0.25, "trained_tokens": 300.0, "episodes": 80.0, "groups": 4.0, "groups_without_variance": 6.0}


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        (ALIKE, "all 10 groups scored alike"),
        ({**ALIKE, "groups_without_variance": 1.0}, "1 group scored alike"),
        (
            {**ALIKE, "groups_incomplete": 2.0},
            "10 groups scored alike, 2 groups had fewer than two usable episodes",
        ),
        ({"skipped": 1.0, "episodes": 3.0, "groups_incomplete": 3.0}, "3 groups had fewer than two usable episodes"),
        ({"skipped": 1.0, "episodes": 8.0, "errors": 8.0}, "all 8 episodes failed"),
        ({"skipped": 1.0}, "there were no episodes"),
        ({"skipped": 1.0, "episodes": 1.0}, "none of 1 episode can be learned from"),
        ({**EQUAL, "episodes_with_equal_rewards": 5.0}, "all 5 episodes scored alike"),
        ({**EQUAL, "episodes_with_equal_rewards": 1.0}, "1 episode has nothing to be compared with"),
        (
            {"skipped": 1.0, "live_too_few": 5.0, "live_used": 20.0, "live_stale": 1.0},
            "5 usable live episodes, fewer than live.min_episodes, 20 live episodes already used, 1 live episode too "
            "old for max_staleness",
        ),
        (
            {
                "skipped": 1.0,
                "episodes": 3.0,
                "live_too_few": 0.0,
                "live_unrewarded": 2.0,
                "groups_without_variance": 1.0,
            },
            "1 group scored alike, 2 live episodes without a reward that counts",
        ),
        ({"skipped": 1.0, "live_too_few": 0.0}, "there were no episodes"),
        (TRAINED, None),
    ],
)
def test_a_step_says_why_it_had_nothing_to_learn(metrics: dict[str, float], why: str | None) -> None:
    assert nothing_to_learn(metrics) == why


def test_a_run_says_how_many_steps_trained_and_what_to_do_if_none_did() -> None:
    assert outcome([TRAINED] * 3) == "3 steps trained"
    assert outcome([TRAINED, ALIKE, ALIKE]) == "1 step trained, 2 had nothing to learn (all 20 groups scored alike)"
    assert outcome([ALIKE]).startswith("0 episodes trained, because all 10 groups scored alike; choose tasks")
    assert "sometimes solves" in outcome([ALIKE, ALIKE])
    assert "easier tasks" in outcome([{**ALIKE, "success_rate": 0.0}])
    assert outcome([{**EQUAL, "episodes_with_equal_rewards": 5.0}, {"skipped": 1.0}]).endswith(
        "all 5 episodes scored alike; a run learns from episodes with different rewards: docs/training-data.md"
    )
    assert "harder tasks" in outcome([{**ALIKE, "success_rate": 1.0}])


@pytest.mark.parametrize("metrics", [ALIKE, {"skipped": 1.0}, TRAINED, {}, {"loss": float("nan")}])
def test_no_line_about_a_step_contains_nan(metrics: dict[str, float]) -> None:
    step = RunStep(step=3, horizon=4, policy_version=None if "skipped" in metrics else 7, metrics=metrics)
    for line in (step_line(run_view(), step), step_text(run_view(), step)):
        assert "nan" not in line
        assert ("nothing to learn" in line) == ("skipped" in metrics)


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_progress_is_a_line_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    line = ProgressLine(stream, clock=clock)
    for second in range(1, 36):
        clock.now = second
        line.show(f"at {second}")
        if second == 15:
            line.say("a step ended")
    assert stream.getvalue().splitlines() == ["at 10", "a step ended", "at 25", "at 35"]


def test_on_a_terminal_progress_is_rewritten_and_lines_that_stay_begin_anew() -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    line = ProgressLine(stream)
    line.show("1 of 2")
    line.say("done")
    assert stream.getvalue() == "\r\033[K1 of 2\r\033[Kdone\n"


def test_a_play_shows_its_rate_and_what_remains() -> None:
    view = PlayView(
        id="p", state="running", error=None, environment="e", horizon=4, purpose="training", episodes=80, finished=20,
        succeeded=5, errors=0, sampled_tokens=900, success_rate=None, mean_reward=None, wall_s=10.0, results=[],
    )  # fmt: skip
    assert play_text(view) == "[######..................] 20/80 episodes, 5 succeeded, 2/s, about 30 s left"
    for too_few in (0, 3):
        assert "left" not in play_text(view.model_copy(update={"finished": too_few}))
    assert [duration(s) for s in (40, 300, 5400)] == ["40 s", "5 min", "1 h 30 min"]


def test_the_time_left_of_a_run_follows_its_observed_steps() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.left(0, 20) is None
    clock.now = 30.0
    assert pace.left(2, 18) == 270.0
    clock.now = 40.0
    assert pace.left(2, 18) == 260.0
