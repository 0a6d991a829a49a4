"""The drawn tree of versions."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.dashboard.figures.lineage import MOST, tree
from upturn.wire import PolicyView, PromotionView


def policy(version: int, parent: int | None, **more: Any) -> PolicyView:
    fields: dict[str, Any] = {
        "name": "policy", "version": version, "id": f"policy@{version}", "kind": "full", "path": "/", "parent": parent,
        "manifest_sha256": None, "run_id": None, "step": None, "horizon": None, "champion": False, "head": False,
        "loaded": False, "swap_s": None, "check_mean": None, "check_max": None, "created_at": 0.0,
    }  # fmt: skip
    return PolicyView(**fields | more)


def decision(number: int, action: str, before: int | None, after: int) -> PromotionView:
    return PromotionView(
        id=number, from_version=before, to_version=after, action=action, reason="", decided_by="gate", run_id=None,
        evidence=None, created_at=0.0,
    )  # fmt: skip


def test_a_chain_is_drawn_by_its_ends_and_says_how_many_are_between() -> None:
    chain = [policy(0, None), *(policy(number, number - 1) for number in range(1, 9))]
    made = tree([*chain, policy(9, 8, champion=True, head=True)], [])
    assert [knot.version for knot in made.knots] == [0, 9]
    (edge,) = made.edges
    assert edge.between == 8 and edge.champions
    assert made.knots[1].marks == "champion head"


def test_a_branch_has_a_lane_of_its_own_and_the_champions_ancestors_have_the_first() -> None:
    versions = [
        policy(0, None),
        policy(1, 0),
        policy(2, 1),
        policy(3, 0),
        policy(4, 3, champion=True),
        policy(5, 4, head=True),
    ]
    ledger = [decision(2, "promote", 0, 4), decision(1, "reject", 2, 0)]
    made = {knot.version: knot for knot in tree(versions, ledger).knots}
    assert set(made) == {0, 2, 4, 5}
    assert made[0].y == made[4].y != made[2].y and made[5].y != made[4].y
    assert (made[2].marks, made[0].marks, made[4].marks) == ("rejected", "was", "champion")


def test_a_version_whose_parent_is_not_known_begins_a_tree() -> None:
    assert [knot.version for knot in tree([policy(7, 3), policy(8, 7, champion=True)], []).knots] == [7, 8]
    assert tree([], []).knots == []


@st.composite
def forests(draw: st.DrawFn) -> list[PolicyView]:
    count = draw(st.integers(1, 90))
    parents = [draw(st.none() | st.integers(0, number - 1)) if number else None for number in range(count)]
    champion = draw(st.integers(0, count - 1))
    return [policy(number, parent, champion=number == champion) for number, parent in enumerate(parents)]


@given(forests())
def test_no_two_versions_share_a_place_and_every_line_has_two_ends(versions: list[PolicyView]) -> None:
    made = tree(versions, [])
    places = [(knot.x, knot.y) for knot in made.knots]
    assert len(set(places)) == len(places) <= MOST
    assert all(0 < x < made.width and 0 < y < made.height for x, y in places)
    for edge in made.edges:
        begin = edge.path.removeprefix("M").split("H")[0].split("C")[0].split(" ")
        assert (int(begin[0]), int(begin[1])) in places
    occupied: dict[int, list[tuple[int, int]]] = {}
    for edge in made.edges:
        if "C" not in edge.path:
            x0, y0, x1 = (int(part) for part in edge.path.removeprefix("M").replace("H", " ").split(" "))
            occupied.setdefault(y0, []).append((x0, x1))
    for lines in occupied.values():
        for (_, end), (begin_x, _) in zip(sorted(lines), sorted(lines)[1:], strict=False):
            assert begin_x >= end, "a line runs through another branch"
