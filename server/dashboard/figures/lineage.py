"""The tree of versions: the ones that something was decided about, and where branches begin and end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from upturn.wire import PolicyView, PromotionView

MOST = 60
"""Versions that are drawn, the newest ones; default chosen by this project."""
COLUMN, LANE, MARGIN = 84, 52, 40
"""Distances in the drawing."""


@dataclass(frozen=True, slots=True)
class Knot:
    """A drawn version."""

    version: int
    x: int
    y: int
    marks: str
    """CSS classes: `champion`, `head`, `was` (champion before), `rejected`."""
    note: str
    """What it is, in words."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A line from a drawn version to the next one trained from it."""

    path: str
    """As SVG."""
    champions: bool
    """It leads to the champion."""
    between: int
    """Number of versions that are not drawn."""
    x: float
    y: float
    """Where that number stands."""


@dataclass(slots=True)
class Tree:
    """The drawing."""

    width: int = 0
    height: int = 0
    knots: list[Knot] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    older: int = 0
    """Number of notable versions that are too old to be drawn."""


def tree(versions: Sequence[PolicyView], ledger: Sequence[PromotionView]) -> Tree:
    """Return the tree of all versions, with the decisions of the ledger."""
    known = {policy.version: policy for policy in versions}
    if not known:
        return Tree()
    was, rejected = _decided(ledger)
    notable = _notable(known, {*was, *rejected})
    drawn = sorted(notable)[-MOST:]
    parents = {version: _drawn_parent(version, known, set(drawn)) for version in drawn}
    champion = next((policy.version for policy in versions if policy.champion), None)
    trunk = _ancestors(champion, {version: parent for version, (parent, _) in parents.items()})
    lanes = _lanes(drawn, parents, trunk)
    at = {version: (MARGIN + COLUMN * column, MARGIN + LANE * lanes[version]) for column, version in enumerate(drawn)}
    made = Tree(
        width=2 * MARGIN + COLUMN * (len(drawn) - 1),
        height=2 * MARGIN + LANE * max(lanes.values()),
        older=len(notable) - len(drawn),
    )
    for version in drawn:
        policy, (x, y) = known[version], at[version]
        parent, between = parents[version]
        if parent is not None:
            made.edges.append(_edge(at[parent], (x, y), version in trunk, between))
        roles = [
            ("champion", policy.champion, "champion"),
            ("head", policy.head, "newest trained version"),
            ("was", version in was and not policy.champion, "was champion"),
            ("rejected", version in rejected and version not in was, "not promoted"),
        ]
        marks = " ".join(mark for mark, holds, _ in roles if holds)
        note = ", ".join(note for _, holds, note in roles if holds) or policy.kind
        made.knots.append(Knot(version, x, y, marks, note))
    return made


def _decided(ledger: Sequence[PromotionView]) -> tuple[set[int], set[int]]:
    """Return the versions that were champion, and those that a decision kept from it."""
    champions, kept_back = set(), set()
    for row in ledger:
        if row.action in ("reject", "continue", "canary"):
            if row.from_version is not None and row.action != "canary":
                kept_back.add(row.from_version)
        else:
            champions |= {row.to_version} | ({row.from_version} if row.from_version is not None else set())
    return champions, kept_back


def _notable(known: Mapping[int, PolicyView], decided: Collection[int]) -> set[int]:
    children: dict[int | None, int] = defaultdict(int)
    for policy in known.values():
        children[policy.parent] += 1
    return {
        version
        for version, policy in known.items()
        if version in decided
        or policy.parent not in known
        or children[version] != 1
        or policy.champion
        or policy.canary
        or policy.head
        or policy.pinned
    }


def _drawn_parent(version: int, known: Mapping[int, PolicyView], drawn: Collection[int]) -> tuple[int | None, int]:
    """Return the nearest drawn ancestor, and the number of versions in between."""
    between, seen = 0, {version}
    parent = known[version].parent
    while parent is not None and parent in known and parent not in seen:
        if parent in drawn:
            return parent, between
        seen.add(parent)
        between += 1
        parent = known[parent].parent
    return None, 0


def _ancestors(version: int | None, parents: Mapping[int, int | None]) -> set[int]:
    found: set[int] = set()
    while version is not None and version in parents and version not in found:
        found.add(version)
        version = parents[version]
    return found


def _lanes(
    drawn: Sequence[int], parents: Mapping[int, tuple[int | None, int]], trunk: Collection[int]
) -> dict[int, int]:
    """Return the lane of each version: 0 for the champion's ancestors, a new one where another branch begins."""
    lanes: dict[int, int] = {}
    ends: dict[int, int] = {}
    """The newest version of each lane."""
    for version in drawn:
        parent, _ = parents[version]
        lane = 0 if version in trunk else lanes.get(parent, 0) if parent is not None else 0
        taken = lane in ends and ends[lane] != parent
        if version not in trunk and (lane == 0 or taken):
            # A lane is free again once its branch has ended before this one begins.
            free = (other for other in range(1, len(drawn) + 1) if ends.get(other, -1) < (parent or 0))
            lane = next(free)
        lanes[version] = lane
        ends[lane] = version
    return lanes


def _edge(start: tuple[int, int], end: tuple[int, int], champions: bool, between: int) -> Edge:
    (x0, y0), (x1, y1) = start, end
    if y0 == y1:
        path = f"M{x0} {y0}H{x1}"
    else:
        turn = min(COLUMN // 2, x1 - x0)
        path = f"M{x0} {y0}C{x0 + turn} {y0} {x0 + turn - 24} {y1} {x0 + turn} {y1}H{x1}"
    return Edge(path, champions, between, x1 - COLUMN / 2, y1 - 6)
