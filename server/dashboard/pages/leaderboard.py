"""The leaderboard: policies and other models, measured on the same tasks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from fastapi import Response

from server.dashboard.figures.shares import Mark, mark
from server.dashboard.forms import FormOf
from server.dashboard.frame import page, see_other
from server.dashboard.inside import ViewerOf
from server.dashboard.problems import pages_router
from upturn.wire import LeaderboardEntry, LeaderboardView, Share

router = pages_router()


@dataclass(frozen=True, slots=True)
class Row:
    """An entry with its drawing."""

    entry: LeaderboardEntry
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class Board:
    """The entries that were measured alike."""

    environment: str
    split: str | None
    horizon: int
    tasks: int
    rows: list[Row]
    """The highest success first."""
    families: list[str]


@router.get("/leaderboard")
async def leaderboard(viewer: ViewerOf) -> Response:
    """Show what was measured, by environment, split, and horizon."""
    view = await viewer.read(LeaderboardView, "/v1/leaderboard")
    return page(viewer, "leaderboard.html", title="Leaderboard", boards=boards(view.data))


@router.post("/leaderboard/{entry_id}/delete")
async def delete(entry_id: str, viewer: ViewerOf, form: FormOf) -> Response:
    """Remove an entry."""
    await viewer.delete(f"/v1/leaderboard/{entry_id}")
    return see_other(viewer.request, "leaderboard")


def boards(entries: list[LeaderboardEntry]) -> list[Board]:
    """Return the entries, those on the same tasks at the same horizon together."""
    alike: dict[tuple[str, str | None, int, tuple[str, ...]], list[LeaderboardEntry]] = defaultdict(list)
    for entry in entries:
        asked = entry.request
        alike[asked.environment, asked.split, asked.horizon, tuple(sorted(asked.tasks))].append(entry)
    return [
        Board(
            environment,
            split,
            horizon,
            len(tasks),
            [Row(entry, mark(entry.figures.success)) for entry in sorted(found, key=_order)],
            sorted({family for entry in found for family in entry.figures.families}),
        )
        for (environment, split, horizon, tasks), found in sorted(alike.items(), key=lambda item: item[0][:3])
    ]


def _order(entry: LeaderboardEntry) -> tuple[float, str]:
    share: Share | None = entry.figures.success
    return (-share.success if share else 1.0, entry.id)
