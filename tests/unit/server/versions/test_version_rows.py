"""Rows of versions: numbers, lineage, weights that stay on disk, and paths that move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from server.errors import Conflict, NotFound
from server.store.database import Database
from server.store.tables import BatchRow, EvaluationRow, PlayRow, PolicyVersionRow, PromotionRow, RunRow
from server.versions import disk, ledger, portable, rows
from server.versions.lineage import read_lineage
from server.versions.settings import VersionSettings
from upturn.wire import GateEvidence

LEAST = VersionSettings(newest=1, ancestors=0, best=False)


@pytest.fixture
def session(session: Session) -> Session:
    """A session of a database with the base model."""
    rows.register_base(session, "policy", Path("/base"))
    session.commit()
    return session


def run(session: Session, name: str = "r", **fields: Any) -> None:
    state = {"state": "done", "trigger": "t", "config": {}, "step": 0, "created_at": 0.0, "ended_at": 1.0, **fields}
    session.add(RunRow(id=name, **state))
    session.flush()


def version(session: Session, parent: int, run_id: str | None = None, step: int | None = None, **fields: Any) -> int:
    row = PolicyVersionRow(
        name="policy",
        kind="full",
        parent=parent,
        run_id=run_id,
        step=step,
        created_at=0.0,
        **{"state": "ready", **fields},
    )
    row.path = fields.get("path", "?")
    number = rows.insert(session, row)
    if "path" not in fields:
        row.path = f"/data/versions/{number}"
    session.flush()
    return number


def batch(session: Session, run_id: str, step: int, horizon: int = 7) -> None:
    session.add(
        BatchRow(
            id=f"{run_id}-{step}", run_id=run_id, step=step, horizon=horizon, state="trained", stats={},
            erased_episodes=10 ** step, created_at=0.0,
        )
    )  # fmt: skip
    session.flush()


def promote(session: Session, before: int, to: int, action: str = "promote", by: str = "me") -> None:
    session.add(ledger.new_entry(before, to, action, "", by))
    session.flush()


def unneeded(session: Session, in_use: set[int] = frozenset(), **settings: Any) -> list[int]:  # type: ignore[assignment]
    return disk.unneeded(session, LEAST.model_copy(update=settings), in_use)


def test_versions_are_numbered_from_one_and_a_refused_number_stays_used(session: Session) -> None:
    run(session)
    batch(session, "r", 0, horizon=5)
    assert [version(session, 0, "r", 0), version(session, 1, "r", 1)] == [1, 2]
    assert [session.get_one(PolicyVersionRow, number).horizon for number in (1, 2)] == [5, None]
    rows.set_failed(session, 2, "bad")
    assert version(session, 1) == 3
    with pytest.raises(NotFound):
        rows.ready(session, 2)


def test_a_version_that_was_loading_when_the_server_stopped_has_failed(session: Session) -> None:
    version(session, 0, state="loading")
    version(session, 0)
    rows.fail_interrupted(session)
    assert [session.get_one(PolicyVersionRow, number).state for number in (0, 1, 2)] == ["ready", "failed", "ready"]
    assert [row.version for row in rows.list_served(session)] == [2, 0]
    assert [row.version for row in rows.list_served(session, 2)] == [2]


def test_a_database_belongs_to_one_base_model(session: Session) -> None:
    rows.register_base(session, "policy", Path("/base"))
    with pytest.raises(Conflict, match="use another data directory") as refused:
        rows.register_base(session, "policy", Path("/other"))
    assert refused.value.code == "other_base_model"
    assert (ledger.champion(session), ledger.head(session)) == (0, 0)


def test_the_head_is_the_newest_version_after_the_last_rejected_one(session: Session) -> None:
    for _ in range(3):
        version(session, 0)
    assert ledger.head(session) == 3
    promote(session, 2, 0, "reject", "gate")
    assert ledger.head(session) == 3
    promote(session, 3, 0, "reject", "gate")
    assert ledger.head(session) == 0
    version(session, 0)
    assert ledger.head(session) == 4


@pytest.mark.parametrize(("by", "head"), [("watch", 0), ("me", 1)])
def test_a_version_that_the_watch_rolled_back_is_no_head(session: Session, by: str, head: int) -> None:
    version(session, 0)
    promote(session, 0, 1)
    promote(session, 1, 0, "rollback", by)
    assert (ledger.champion(session), ledger.head(session)) == (0, head)


def test_a_decision_of_the_gate_is_a_row_and_the_state_of_its_run(session: Session) -> None:
    version(session, 0)

    def decide(name: str, promoted: bool, champion: int = 0, canary: bool = False, gate: str = "due") -> Any:
        run(session, name, gate=gate)
        evidence = GateEvidence(
            champion=0, candidate=1, horizon=1, method="m", gain=None, environments={}, metrics={}, rule={},
            objections=[] if promoted else ["bad", "worse"], promoted=promoted,
        )  # fmt: skip
        before = session.query(PromotionRow).count()
        recorded = ledger.record_gate_decision(session, name, evidence, champion, canary=canary)
        session.flush()
        row = session.query(PromotionRow).order_by(PromotionRow.id.desc()).first()
        assert row is not None and session.query(PromotionRow).count() == before + recorded
        what = (row.from_version, row.to_version, row.action, row.reason, row.run_id) if recorded else None
        return session.get_one(RunRow, name).gate, what

    assert decide("a", True) == ("promoted", (0, 1, "promote", "", "a"))
    assert decide("b", True, canary=True) == ("canary", (1, 0, "canary", "", "b"))
    assert decide("c", False, canary=True) == ("rejected", (1, 0, "reject", "bad; worse", "c"))
    assert decide("d", True, champion=1) == ("void", None)
    assert decide("e", True, gate="promoted") == ("promoted", None)


def test_levels_are_spent_by_rejections_with_a_test_until_the_gate_promotes(session: Session) -> None:
    version(session, 0)

    def row(action: str, by: str = ledger.BY_GATE, evidence: Any = None) -> float:
        session.add(
            PromotionRow(
                from_version=0, to_version=1, action=action, reason="", decided_by=by, evidence=evidence, created_at=0.0
            )
        )
        session.flush()
        return ledger.spent_levels(session)

    test = {"test": {"level": 0.02}}
    assert row("reject", evidence={"objections": []}) == 0.0, "older evidence has no test"
    assert row("reject", evidence={"test": None}) == 0.0
    assert row("reject", evidence=test) == row("promote", "me") == row("reject", ledger.BY_CANARY, test) == 0.02
    assert row("reject", evidence=test) == 0.04 == row("rollback", ledger.BY_WATCH)
    assert row("canary", evidence=test) == 0.0
    assert row("reject", evidence=test) == 0.02
    assert row("promote", evidence=test) == 0.0


def test_the_weights_of_every_version_that_may_be_needed_stay_on_disk(session: Session) -> None:
    for parent in range(6):
        version(session, parent)
    assert unneeded(session) == [1, 2, 3, 4, 5]
    assert unneeded(session, newest=3) == [1, 2, 3]
    assert unneeded(session, in_use={2, 4}) == [1, 3, 5]
    session.get_one(PolicyVersionRow, 1).pinned = True
    assert unneeded(session) == [2, 3, 4, 5]
    promote(session, 0, 3)
    promote(session, 3, 4)
    assert unneeded(session) == [2, 5], "champion and previous champion"
    assert unneeded(session, ancestors=1) == [2, 5]
    assert unneeded(session, ancestors=2) == [5]
    promote(session, 4, 4)
    assert unneeded(session) == [2, 5], "a promotion of the champion changes nothing"


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"ended_at": None}, True),
        ({"gate": "due"}, True),
        ({"gate": "canary"}, True),
        ({"gate": "promoted"}, False),
        ({}, False),
    ],
)
def test_first_and_last_versions_of_undecided_runs_stay(session: Session, fields: dict[str, Any], needed: bool) -> None:
    for _ in range(4):
        version(session, 0)
    run(session, first_version=1, last_version=3, **fields)
    assert unneeded(session) == ([2] if needed else [1, 2, 3])
    run(session, "other", first_version=2, last_version=None, ended_at=None)
    assert unneeded(session) == ([] if needed else [1, 3])


def test_the_best_version_of_each_environment_stays_and_the_newest_wins_a_tie(session: Session) -> None:
    for _ in range(5):
        version(session, 0)
    results = [(1, "a", 0.5), (2, "a", 0.75), (3, "a", 0.75), (4, "a", None), (1, "b", 0.25), (2, "b", 0.0)]
    for number, (of, environment, success) in enumerate(results):
        session.add(PlayRow(id=f"p{number}", state="done", request={}, created_at=0.0))
        session.flush()
        session.add(
            EvaluationRow(
                id=f"e{number}", play_id=f"p{number}", policy_version=of, environment=environment, horizon=1,
                episodes=1, success_rate=success, mean_reward=None, created_at=0.0,
            )
        )  # fmt: skip
    session.flush()
    assert unneeded(session, best=True) == [2, 4]
    assert unneeded(session, best=False) == [1, 2, 3, 4]
    session.get_one(PolicyVersionRow, 3).state = "retired"
    assert unneeded(session, best=True) == [4]


def test_the_best_version_is_best_over_all_its_evaluations_and_not_in_one_round(session: Session) -> None:
    for _ in range(3):
        version(session, 0)
    results = [(1, 1.0, 10), (1, 0.0, 30), (2, 0.5, 40), (2, 0.25, 40), (3, None, 0)]
    for number, (of, success, episodes) in enumerate(results):
        session.add(PlayRow(id=f"p{number}", state="done", request={}, created_at=0.0))
        session.flush()
        session.add(
            EvaluationRow(
                id=f"e{number}", play_id=f"p{number}", policy_version=of, environment="a", horizon=1,
                episodes=episodes, success_rate=success, mean_reward=None, created_at=0.0,
            )
        )  # fmt: skip
    session.flush()
    assert unneeded(session, best=True) == [1]


def test_only_directories_of_retired_versions_under_the_root_are_left_over(session: Session, tmp_path: Path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "elsewhere"
    for name in ("a", "b", "c"):
        (inside / name).mkdir(parents=True)
    outside.mkdir()
    for path, state in ((inside / "a", "retired"), (inside / "b", "ready"), (inside / "b", "retired")):
        version(session, 0, path=str(path), state=state)
    for path, state in ((inside / "c", "failed"), (inside / "gone", "retired"), (outside, "retired")):
        version(session, 0, path=str(path), state=state)
    left = disk.leftover(session, inside)
    assert left == [inside / "a"]
    disk.delete([*left, inside / "gone"])
    assert sorted(path.name for path in inside.iterdir()) == ["b", "c"]
    disk.retire(session, [2])
    assert portable.kept_weights(session) == {}


def test_a_version_was_trained_by_the_steps_of_its_run_since_its_parent(database: Database, session: Session) -> None:
    run(session)
    run(session, "s")
    for step in range(5):
        batch(session, "r", step)
    batch(session, "s", 0)
    first = version(session, 0, "r", 1)
    second = version(session, first, "r", 4)
    other = version(session, second, "s", 0)
    session.commit()

    def steps(of: int) -> int:
        return read_lineage(database, of, 10).erased_episodes

    assert [steps(first), steps(second), steps(other), steps(0)] == [11, 11100, 1, 0]
    lineage = read_lineage(database, other, 10)
    assert [(one.version, one.run_id, one.step, one.kept) for one in lineage.parents] == [
        (second, "r", 4, True),
        (first, "r", 1, True),
        (0, None, None, True),
    ]
    with pytest.raises(NotFound):
        read_lineage(database, 99, 10)


def test_a_moved_database_names_its_weights_where_they_are(session: Session) -> None:
    version(session, 0, path="/old/data/versions/1")
    version(session, 0, path="/older/2")
    portable.move(session, Path("/old/data"), Path("/new"), None)
    session.flush()
    assert portable.base_path(session) == "/base"
    assert portable.kept_weights(session) == {1: Path("/new/versions/1"), 2: Path("/older/2")}
    portable.move(session, Path("/none"), Path("/new"), Path("/moved"))
    assert portable.base_path(session) == "/moved"
    promote(session, 0, 1)
    assert portable.needed_versions(session) == {1, 2}
    portable.retire(session, {1})
    session.flush()
    assert portable.kept_weights(session).keys() == {2}


def test_an_empty_database_needs_no_weights(database: Database) -> None:
    with Session(database.writer) as session:
        assert portable.base_path(session) is None and portable.needed_versions(session) == set()
