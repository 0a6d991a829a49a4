"""Windows of the day: across midnight, and when clocks are set forward and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from server.training.scheduling.windows import Windows


def at(text: str) -> float:
    """Unix time of a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def open_minutes(window: str, start: str, hours: int = 24) -> int:
    """Return the number of minutes that a window is open."""
    windows, begin = Windows([window]), at(start)
    return sum(windows.open_at(begin + timedelta(minutes=minute).total_seconds()) for minute in range(hours * 60))


def test_a_schedule_without_windows_is_always_open() -> None:
    always = Windows([])
    assert always.open_at(0.0) and always.opens_at(0.0) is None and always.next_change(0.0) is None
    assert not always.closed_since(0.0, 1e9)


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-01-15T00:59", True),
        ("2026-01-14T23:59", False),
        ("2026-01-15T00:00", True),
        ("2026-01-15T04:59", True),
        ("2026-01-15T05:00", False),
    ],
)
def test_a_window_follows_its_own_time_zone(moment: str, is_open: bool) -> None:
    assert Windows(["01:00-06:00 Europe/Berlin"]).open_at(at(moment)) is is_open


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-06-01T21:59", False),
        ("2026-06-01T22:00", True),
        ("2026-06-02T00:30", True),
        ("2026-06-02T05:59", True),
        ("2026-06-02T06:00", False),
    ],
)
def test_a_window_may_cross_midnight(moment: str, is_open: bool) -> None:
    assert Windows(["22:00-06:00 UTC"]).open_at(at(moment)) is is_open


def test_a_window_is_an_hour_shorter_or_longer_when_clocks_change_within_it() -> None:
    window = "01:00-06:00 Europe/Berlin"
    assert open_minutes(window, "2026-03-27T12:00") == 5 * 60
    assert open_minutes(window, "2026-03-28T12:00") == 4 * 60, "02:00 became 03:00"
    assert open_minutes(window, "2026-10-24T12:00") == 6 * 60, "03:00 became 02:00"
    assert open_minutes("01:00-02:30 Europe/Berlin", "2026-10-24T12:00") == 150, (
        "both occurrences of the repeated hour are inside"
    )
    assert open_minutes("02:30-03:30 Europe/Berlin", "2026-10-24T12:00") == 120


def test_a_window_in_the_skipped_hour_opens_as_long_after_midnight_as_on_other_days() -> None:
    window, eve = "02:15-02:45 Europe/Berlin", "2026-03-28T12:00"
    assert Windows([window]).open_at(at("2026-03-29T01:20")) and open_minutes(window, eve) == 30


@pytest.mark.parametrize(("window", "minutes"), [("02:30-03:00", 30), ("02:30-03:15", 45), ("02:00-03:00", 60)])
def test_a_window_that_begins_in_the_skipped_hour_opens_for_its_usual_time(window: str, minutes: int) -> None:
    assert open_minutes(f"{window} Europe/Berlin", "2026-03-28 20:00") == minutes


def test_a_window_opens_once_a_day_wherever_clocks_change_at_midnight() -> None:
    for zone in ("America/Santiago", "Asia/Beirut", "Africa/Cairo", "Australia/Lord_Howe"):
        for window in ("22:00-00:00", "00:00-00:30", "23:50-00:10", "00:10-23:50"):
            windows = Windows([f"{window} {zone}"])
            changes, moment = 0, at("2026-01-01 12:00")
            while moment < at("2027-01-01 12:00"):
                following = windows.next_change(moment)
                assert following is not None
                changes, moment = changes + 1, following
            assert changes in (730, 731), (zone, window, changes)


def test_windows_report_the_next_opening_and_whether_one_has_closed() -> None:
    windows = Windows(["01:00-06:00 UTC", "12:00-13:00 UTC"])
    noon = at("2026-06-01T12:00")
    assert windows.opens_at(at("2026-06-01T07:00")) == noon and windows.opens_at(noon) is None
    assert windows.next_change(noon) == at("2026-06-01T13:00")
    assert windows.closed_since(at("2026-06-01T05:00"), at("2026-06-01T06:00"))
    assert not windows.closed_since(at("2026-06-01T06:30"), at("2026-06-01T07:00")), "the window closed before 06:30"
    assert not windows.closed_since(at("2026-06-01T05:00"), noon), "another window is open"


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "01:00-06:00",
        "1:00-6:00 UTC",
        "25:00-06:00 UTC",
        "01:00-01:00 UTC",
        "01:00-06:00 Europe",
        "01:00-06:00 Mars/Olympus",
        "01:00-06:00 ../UTC",
    ],
)
def test_invalid_windows_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"window|time zone"):
        Windows([wrong])
