"""What cannot be trained on, and why: recorded turns by reason, with what to do about each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from fastapi import Response

from server.dashboard.frame import page
from server.dashboard.inside import ViewerOf
from server.dashboard.problems import pages_router
from server.dashboard.transcripts.reasons import REASONS, Reason, reason
from upturn.wire import StatsView

DAY_S = 86_400
SPANS = {"day": (DAY_S, 3600), "week": (7 * DAY_S, DAY_S), "month": (30 * DAY_S, DAY_S)}
"""Length and bucket of each choice, in seconds."""

router = pages_router()


@dataclass(frozen=True, slots=True)
class Row:
    """A reason, and how many turns it concerns."""

    reason: Reason
    turns: int
    series: list[int]
    """By bucket."""


@router.get("/untrainable")
async def untrainable(viewer: ViewerOf, span: Literal["day", "week", "month"] = "week") -> Response:
    """Show why turns of the last days cannot be trained on."""
    length_s, bucket_s = SPANS[span]
    now = time.time()
    stats = await viewer.read(StatsView, "/v1/stats", {"from": now - length_s, "to": now, "bucket": bucket_s})
    found = [Row(reason(name), sum(series), series) for name, series in stats.untrainable.items()]
    return page(
        viewer,
        "untrainable.html",
        title="What is not trainable, and why",
        span=span,
        since=now - length_s,
        rows=sorted((row for row in found if row.turns), key=lambda row: (-row.turns, row.reason.name)),
        others=[reason(name) for name in REASONS if not sum(stats.untrainable.get(name, ()))],
        turns=sum(stats.turns),
        errors=sum(stats.errors),
        missing=stats.missing,
    )
