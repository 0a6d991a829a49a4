"""Time series of recorded episodes, from the index: what was opened, said, earned, and left untrainable. Blocks.

Episodes and their rewards count where they were opened, turns and tokens where they were recorded.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from server.errors import BadRequest
from server.recording.reading.index_rows import SLOT_S
from upturn.wire import SeriesGroup, StatsView

LIVE = "live"
"""The name of episodes without an environment."""
MOST_BUCKETS = 1000
WIDTHS = (300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 7 * 86_400, 30 * 86_400)
"""Seconds of a bucket that is chosen by itself: the smallest that gives at most `FEW` buckets."""
FEW = 120
MOST_GROUPS = 30
"""Environments and versions that are shown, those with the most episodes first."""


class _Sums:
    """Figures of some episodes by bucket."""

    def __init__(self, buckets: int) -> None:
        self.episodes, self.judged, self.succeeded, self.rewarded = ([0] * buckets for _ in range(4))
        self.reward = [0.0] * buckets

    def add(self, at: int, row: Any) -> None:
        """Add a row of the query by bucket."""
        self.episodes[at] += row["episodes"]
        self.judged[at] += row["judged"]
        self.succeeded[at] += row["succeeded"] or 0
        self.rewarded[at] += row["rewarded"]
        self.reward[at] += row["reward"] or 0.0

    def rates(self) -> list[float | None]:
        """Return the share of successes by bucket."""
        return [s / n if n else None for s, n in zip(self.succeeded, self.judged, strict=True)]

    def means(self) -> list[float | None]:
        """Return the mean reward by bucket."""
        return [r / n if n else None for r, n in zip(self.reward, self.rewarded, strict=True)]


def width_for(opened_from: float, opened_before: float) -> int:
    """Return the seconds of a bucket that suits a period."""
    return next((width for width in WIDTHS if (opened_before - opened_from) / width <= FEW), WIDTHS[-1])


def read_stats(
    index: sqlite3.Connection, opened_from: float, opened_before: float, bucket_s: int | None, missing: int
) -> StatsView:
    """Return the time series of a period, extended to whole buckets.

    Raises:
        BadRequest: the period is empty or has too many buckets, or a bucket is not a multiple of 300 s.
    """
    if opened_before <= opened_from:
        raise BadRequest("`to` must be later than `from`", param="to")
    width = bucket_s or width_for(opened_from, opened_before)
    if width % SLOT_S:
        raise BadRequest(f"bucket must be a multiple of {SLOT_S} s", param="bucket")
    first, last = int(opened_from // width), -int(-opened_before // width)
    if last - first > MOST_BUCKETS:
        raise BadRequest(
            f"the period has {last - first} buckets; the most are {MOST_BUCKETS}: ask for a shorter one, or for "
            "larger buckets",
            param="bucket",
        )
    count = last - first
    index.row_factory = sqlite3.Row
    every, live, errors = _Sums(count), [0] * count, [0] * count
    environments: dict[str, _Sums] = defaultdict(lambda: _Sums(count))
    versions: dict[str, _Sums] = defaultdict(lambda: _Sums(count))
    for row in index.execute(_EPISODES, (width, first * width, last * width)):
        at = row["bucket"] - first
        every.add(at, row)
        environments[row["environment"] or LIVE].add(at, row)
        versions[str(row["version"])].add(at, row)
        live[at] += row["live"]
        errors[at] += row["errors"] or 0
    turns, prompt, answered = ([0] * count for _ in range(3))
    untrainable: dict[str, list[int]] = defaultdict(lambda: [0] * count)
    slots = width // SLOT_S
    for row in index.execute(_TURNS, (first * slots, last * slots)):
        at = row["slot"] // slots - first
        turns[at] += row["turns"]
        prompt[at] += row["prompt_tokens"]
        answered[at] += row["completion_tokens"]
        if row["reason"]:
            untrainable[row["reason"]][at] += row["turns"]
    return StatsView(
        opened_from=float(first * width),
        opened_before=float(last * width),
        bucket_s=width,
        at=[float(position * width) for position in range(first, last)],
        episodes=every.episodes,
        live=live,
        errors=errors,
        open=_open(index, every.episodes, width, first, last),
        turns=turns,
        prompt_tokens=prompt,
        completion_tokens=answered,
        untrainable=dict(untrainable),
        success_rate=every.rates(),
        mean_reward=every.means(),
        environments=_groups(environments, lambda name: name),
        versions=_groups(versions, int),
        missing=missing,
    )


_EPISODES = """
    SELECT CAST(opened_at / ? AS INTEGER) AS bucket, environment, version, count(*) AS episodes,
        sum(play IS NULL) AS live, sum(status = 'error') AS errors, count(success) AS judged, sum(success) AS succeeded,
        count(reward) AS rewarded, sum(reward) AS reward
    FROM episode WHERE opened_at >= ? AND opened_at < ? GROUP BY 1, 2, 3"""
_TURNS = """
    SELECT slot, reason, sum(turns) AS turns, sum(prompt_tokens) AS prompt_tokens,
        sum(completion_tokens) AS completion_tokens
    FROM usage WHERE slot >= ? AND slot < ? GROUP BY 1, 2"""
"""By slot, since the index has them in this order; grouping by bucket would sort all rows."""


def _groups(sums: dict[str, _Sums], order: Callable[[str], Any]) -> dict[str, SeriesGroup]:
    largest = sorted(sums, key=lambda name: -sum(sums[name].episodes))[:MOST_GROUPS]
    return {
        name: SeriesGroup(episodes=sums[name].episodes, success_rate=sums[name].rates(), mean_reward=sums[name].means())
        for name in sorted(largest, key=order)
    }


def _open(index: sqlite3.Connection, opened: Sequence[int], width: int, first: int, last: int) -> list[int]:
    """Return how many episodes were open at the end of each bucket."""
    (now,) = index.execute(
        "SELECT (SELECT count(*) FROM episode WHERE opened_at < :at) - (SELECT count(*) FROM episode "
        "WHERE closed_at IS NOT NULL AND closed_at < :at)",
        {"at": first * width},
    ).fetchone()
    closed = dict(
        index.execute(
            "SELECT CAST(closed_at / :width AS INTEGER), count(*) FROM episode "
            "WHERE closed_at IS NOT NULL AND closed_at >= :since AND closed_at < :until GROUP BY 1",
            {"width": width, "since": first * width, "until": last * width},
        ).fetchall()
    )
    still_open = []
    for bucket, count in zip(range(first, last), opened, strict=True):
        now += count - closed.get(bucket, 0)
        still_open.append(now)
    return still_open
