"""Versions: the tree of their descent, the ledger, and one version with what trained it and whom it served."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import Path, Response

from server.dashboard.figures.intervals import Plot, plot
from server.dashboard.figures.lineage import tree
from server.dashboard.forms import FormOf
from server.dashboard.frame import page, see_other
from server.dashboard.inside import ViewerOf
from server.dashboard.problems import pages_router
from upturn.wire import (
    GateEvidence,
    LiveEvidence,
    PairedTasks,
    PolicyLineage,
    PolicyList,
    PolicyView,
    PromotionList,
    PromotionView,
)

LEDGER = 200
"""Rows of the ledger that pages read."""
LISTED = 50
"""Versions in the table, the newest ones."""
EPISODES = 100
Version = Annotated[int, Path(ge=0, lt=2**31)]

router = pages_router()


@router.get("/versions")
async def versions(viewer: ViewerOf, all: bool = False) -> Response:
    """Show every version, how they descend from each other, and what was decided about them."""
    listed, ledger = await asyncio.gather(
        viewer.read(PolicyList, "/v1/policies"),
        viewer.maybe(PromotionList, "/v1/promotions", {"limit": LEDGER}),
    )
    rows = ledger.data if ledger else []
    shown = listed.data if all else listed.data[:LISTED]
    champion = next((policy for policy in listed.data if policy.champion), None)
    return page(
        viewer,
        "versions/list.html",
        title="Versions",
        versions=shown,
        total=len(listed.data),
        champion=champion,
        head=next((policy for policy in listed.data if policy.head), None),
        canary=next((policy for policy in listed.data if policy.canary), None),
        ledger=rows if ledger else None,
        previous=previous_champion(rows, champion),
        decisions=latest_decisions(rows),
        tree=tree(listed.data, rows),
    )


@router.get("/versions/{version}")
async def version(version: Version, viewer: ViewerOf) -> Response:
    """Show one version."""
    policy, lineage, ledger = await asyncio.gather(
        viewer.read(PolicyView, f"/v1/policies/{version}"),
        viewer.read(PolicyLineage, f"/v1/policies/{version}/lineage", {"limit": EPISODES}),
        viewer.maybe(PromotionList, "/v1/promotions", {"limit": LEDGER}),
    )
    rows = [row for row in (ledger.data if ledger else []) if version in (row.from_version, row.to_version)]
    return page(
        viewer, "versions/one.html", title=policy.id, policy=policy, lineage=lineage, ledger=rows if ledger else None
    )


@router.get("/decisions/{number}")
async def decision(number: Version, viewer: ViewerOf) -> Response:
    """Show a decision of the ledger, with its evidence."""
    row, pairs = await asyncio.gather(
        viewer.read(PromotionView, f"/v1/promotions/{number}"),
        viewer.read(PairedTasks, f"/v1/promotions/{number}/tasks"),
    )
    return page(
        viewer,
        "versions/decision.html",
        title=f"Decision {row.id}",
        row=row,
        about=about(row),
        gate=row.evidence if isinstance(row.evidence, GateEvidence) else None,
        live=row.evidence if isinstance(row.evidence, LiveEvidence) else None,
        intervals=gains(row.evidence),
        pairs=sorted(pairs.data, key=lambda pair: (pair.guards, pair.environment, pair.gain or 0.0)),
    )


@router.post("/versions/{version}/promote")
async def promote(version: Version, viewer: ViewerOf, form: FormOf) -> Response:
    """Make a version the champion."""
    await viewer.post(f"/v1/policies/{version}/promote", {"reason": form.text("reason", "by hand")})
    return see_other(viewer.request, f"versions/{version}")


@router.post("/versions/{version}/pin")
async def pin(version: Version, viewer: ViewerOf, form: FormOf) -> Response:
    """Keep a version's weights, or stop keeping them."""
    path = f"/v1/policies/{version}/pin"
    await (viewer.delete(path) if form.text("pinned") == "no" else viewer.post(path))
    return see_other(viewer.request, f"versions/{version}")


@router.post("/rollback")
async def rollback(viewer: ViewerOf, form: FormOf) -> Response:
    """Make the previous champion the champion again."""
    view = await viewer.post("/v1/policies/rollback", {"reason": form.text("reason", "by hand")})
    return see_other(viewer.request, f"versions/{int(view['version'])}")


def previous_champion(rows: Sequence[PromotionView], champion: PolicyView | None) -> int | None:
    """Return the version that a rollback would make the champion."""
    if champion is None:
        return None
    changes = (row for row in rows if row.action in ("publish", "promote") and row.to_version == champion.version)
    return next((row.from_version for row in changes if row.from_version != champion.version), None)


def about(row: PromotionView) -> int:
    """Return the version that a row of the ledger is about."""
    judged = row.action in ("reject", "continue", "canary") and row.from_version is not None
    return row.from_version if judged and row.from_version is not None else row.to_version


def latest_decisions(rows: Sequence[PromotionView]) -> dict[int, PromotionView]:
    """Return the newest row of the ledger about each version."""
    found: dict[int, PromotionView] = {}
    for row in rows:
        found.setdefault(about(row), row)
        if row.action == "rollback" and row.from_version is not None:
            found.setdefault(row.from_version, row)
    return found


def gains(evidence: GateEvidence | LiveEvidence | None) -> Plot | None:
    """Return the plot of a candidate's gains: in each environment, in all of them, and in the guards."""
    if not isinstance(evidence, GateEvidence):
        return None
    named = [(name, result.gain) for name, result in evidence.environments.items()]
    if len(named) > 1:
        named.append(("all environments", evidence.gain))
    named += [(f"{name} (guard)", result.gain) for name, result in evidence.guards.items()]
    return plot([(name, gain) for name, gain in named if gain is not None])
