"""How values are shown on pages."""

from __future__ import annotations

import math

import pytest

from server.dashboard import shown
from server.dashboard.figures.intervals import plot
from server.dashboard.live import event
from upturn.wire import Interval


@pytest.mark.parametrize(
    "show", [shown.number, shown.short, shown.percent, shown.signed, shown.duration, shown.in_bytes, shown.when]
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_known_is_a_dash(show: object, value: float | None) -> None:
    assert callable(show) and show(value) == shown.NOTHING


def test_numbers_keep_their_size_readable() -> None:
    assert [shown.number(value) for value in (0, 1, 1234567, 0.12345, 1234.5, 0.00001234)] == [
        "0", "1", "1,234,567", "0.123", "1,234", "1.2e-05",
    ]  # fmt: skip
    assert [shown.short(value) for value in (950, 12_345, 3_456_789)] == ["950", "12.3 k", "3.46 M"]
    assert [shown.percent(0.5), shown.percent(0.1234, 1), shown.signed(-0.05)] == ["50 %", "12.3 %", "−5.0 %"]
    assert [shown.duration(value) for value in (0.5, 42, 120, 5400, 200_000)] == [
        "0.5 s",
        "42 s",
        "2 min",
        "1.5 h",
        "2.3 d",
    ]
    assert [shown.in_bytes(value) for value in (512, 3 * 2**30)] == ["512 B", "3 GiB"]
    assert [shown.plural(1, "turn"), shown.plural(2000, "turn")] == ["1 turn", "2,000 turns"]


def test_a_time_is_machine_readable_and_escapes_nothing_of_its_own() -> None:
    assert shown.when(0.0) == '<time datetime="1970-01-01T00:00:00Z" data-style="short">Jan 1, 00:00 UTC</time>'
    assert shown.when(1e300) == shown.NOTHING
    assert "&lt;" in str(shown.when(0.0, "<b>"))


def test_intervals_stay_inside_their_plot_and_say_on_which_side_of_zero_they_are() -> None:
    made = plot(
        [
            ("better", Interval(mean=0.2, low=0.1, high=0.3)),
            ("worse", Interval(mean=-0.2, low=-0.9, high=-0.1)),
            ("open", Interval(mean=0.0, low=-0.1, high=3.0)),
            ("broken", Interval.model_construct(mean=math.nan, low=0.0, high=0.0)),
        ]
    )
    assert made is not None and [bar.tone for bar in made.bars] == ["good", "bad", ""]
    assert all(0 < place < made.width for bar in made.bars for place in (bar.low, bar.mean, bar.high))
    assert all(bar.low <= bar.mean <= bar.high for bar in made.bars) and len(made.ticks) >= 3
    assert plot([]) is None


def test_an_event_is_one_event_whatever_its_text_contains() -> None:
    text = event("now", "<p>a\r\n\nevent: other\ndata: b</p>")
    assert text.count("\n\n") == 1 and text.endswith("\n\n")
    assert all(line.startswith(("event: now", "data: ")) for line in text.strip().split("\n"))
