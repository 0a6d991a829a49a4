"""Which state the next run of a campaign continues."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import Session

from server.store.tables import CampaignRow, PolicyVersionRow, PromotionRow, RunRow
from server.training.campaigns.beginnings import Beginning, begin, next_beginning
from server.training.campaigns.nights import nights_of, outcome_of
from server.training.run_states import claimable_run


class Nights:
    """A campaign on a server whose first version is 0."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.clock = 0.0
        self.versions = 0
        session.add(CampaignRow(id="nightly", name="nightly", created_at=0.0))
        self.add_version(None, None)
        self.ledger(None, 0, "first")

    def add_version(self, run: str | None, step: int | None) -> int:
        row = PolicyVersionRow(
            version=self.versions, name="policy", state="ready", kind="full", path="p", run_id=run, step=step,
            created_at=self.clock,
        )  # fmt: skip
        self.session.add(row)
        self.session.flush()
        self.versions += 1
        return row.version

    def ledger(self, before: int | None, to: int, action: str, by: str = "gate") -> None:
        self.clock += 1
        self.session.add(
            PromotionRow(
                from_version=before, to_version=to, action=action, reason="", decided_by=by, created_at=self.clock
            )
        )
        self.session.flush()

    def night(
        self, run_id: str, steps: int, gate: str | None, *, collapsed: bool = False, state: str = "done"
    ) -> RunRow:
        """Record a night that began where the campaign says, and published a version in each step."""
        self.clock += 1
        row = RunRow(
            id=run_id, state="queued", trigger="t", config={}, step=0, campaign_id="nightly", created_at=self.clock
        )
        self.session.add(row)
        begin(self.session, row)
        row.started_at, row.state, row.step, row.gate, row.collapsed = self.clock, state, steps, gate, collapsed
        row.ended_at = None if state == "running" else self.clock
        self.session.flush()
        for step in range(steps):
            row.last_version = self.add_version(run_id, step)
        self.session.flush()
        return row

    def promote(self, run: RunRow) -> None:
        assert run.last_version is not None
        self.ledger(0, run.last_version, "promote")


@pytest.fixture
def nights(session: Session) -> Nights:
    return Nights(session)


def beginning(nights: Nights) -> Beginning:
    return next_beginning(nights.session, "nightly")


def test_the_first_run_begins_with_the_champion(nights: Nights) -> None:
    assert beginning(nights) == Beginning(None, None, 0, 0)


@pytest.mark.parametrize("gate", ["continued", "promoted", "void", None])
def test_a_run_that_is_not_known_to_be_worse_is_continued(nights: Nights, gate: str | None) -> None:
    nights.night("one", 3, gate)
    assert beginning(nights) == Beginning("one", 3, 3, 0)
    nights.night("two", 4, gate)
    assert beginning(nights) == Beginning("two", 4, 7, 0)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_the_steps_of_a_run_that_broke_off_are_continued(nights: Nights, state: str) -> None:
    nights.night("one", 2, None, state=state)
    assert beginning(nights) == Beginning("one", 2, 2, 0)


def test_a_run_without_a_step_changes_nothing(nights: Nights) -> None:
    nights.night("one", 3, "continued")
    nights.night("two", 0, "void")
    assert beginning(nights) == Beginning("one", 3, 3, 0)


def test_a_worse_run_goes_back_to_the_champion_from_outside_the_campaign(nights: Nights) -> None:
    nights.night("one", 3, "continued")
    nights.night("two", 3, "rejected")
    assert beginning(nights) == Beginning(None, None, 0, 1)
    nights.night("three", 3, "rejected")
    assert beginning(nights).attempt == 2


def test_a_worse_run_goes_back_to_the_state_behind_the_champion(nights: Nights) -> None:
    nights.night("one", 3, "continued")
    nights.promote(nights.night("two", 2, "promoted"))
    nights.night("three", 4, "continued")
    nights.night("four", 4, "rejected")
    assert beginning(nights) == Beginning("two", 2, 5, 1)


def test_a_collapsed_run_goes_back_without_a_decision(nights: Nights) -> None:
    nights.promote(nights.night("one", 3, "promoted"))
    collapsed = nights.night("two", 3, None, collapsed=True, state="failed")
    assert beginning(nights) == Beginning("one", 3, 3, 1)
    assert outcome_of(collapsed) == "revert"


def test_a_night_shows_what_the_watch_and_people_made_of_it(nights: Nights) -> None:
    one, two, three = (nights.night(name, 1, gate) for name, gate in (("1", "promoted"), ("2", "void"), ("3", None)))
    nights.promote(one)
    assert one.last_version is not None
    nights.ledger(one.last_version, 0, "rollback", "watch")
    nights.promote(two)
    nights.promote(three)
    assert three.last_version is not None and two.last_version is not None
    nights.ledger(three.last_version, two.last_version, "rollback", "ann")

    def outcomes() -> list[str]:
        return [night.outcome for night in nights_of(nights.session, "nightly")]

    assert outcomes() == ["revert", "promote", "revert"]
    nights.promote(one)
    assert outcomes() == ["promote", "promote", "revert"]


@pytest.mark.parametrize("by", ["watch", "ann"])
def test_a_rolled_back_champion_takes_its_state_with_it(nights: Nights, by: str) -> None:
    one = nights.night("one", 3, "promoted")
    nights.promote(one)
    two = nights.night("two", 3, "promoted")
    nights.promote(two)
    assert one.last_version is not None and two.last_version is not None
    nights.ledger(two.last_version, one.last_version, "rollback", by)
    assert beginning(nights) == Beginning("one", 3, 3, 1)
    nights.night("three", 2, "continued")
    assert beginning(nights) == Beginning("three", 2, 5, 1), "the rollback was before this run began"


def test_an_earlier_version_of_a_run_made_champion_by_hand_is_a_state_too(nights: Nights) -> None:
    one = nights.night("one", 3, "continued")
    assert one.last_version is not None
    nights.ledger(0, one.last_version - 1, "promote", "ann")
    nights.night("two", 3, "rejected")
    assert beginning(nights) == Beginning("one", 2, 2, 1)


def test_a_promoted_start_is_the_state_that_its_run_continued(nights: Nights) -> None:
    nights.night("one", 3, "continued")
    two = nights.night("two", 0, "promoted")
    nights.ledger(0, nights.add_version("two", None), "promote", "ann")
    two.step = 1
    nights.night("three", 1, "rejected")
    assert beginning(nights) == Beginning("one", 3, 3, 1)


def test_the_outcome_of_a_night_names_what_was_decided(nights: Nights) -> None:
    outcomes = {"due": "open", "promoted": "promote", "continued": "continue", "rejected": "revert", None: "continue"}
    for number, (gate, outcome) in enumerate(outcomes.items()):
        assert outcome_of(nights.night(f"run-{number}", 1, gate)) == outcome
    assert outcome_of(nights.night("none", 0, "void")) == "nothing"
    assert outcome_of(nights.night("now", 1, None, state="running")) == "open"


def test_a_collapsed_run_goes_back_to_its_best_version_and_not_to_its_end(nights: Nights) -> None:
    collapsed = nights.night("one", 4, None, collapsed=True, state="failed")
    collapsed.last_version = nights.add_version("one", 1)  # The best version, of step 1, serves again.
    nights.ledger(0, collapsed.last_version, "publish", "swap")
    assert beginning(nights) == Beginning("one", 2, 2, 1)


def test_a_copy_of_an_unknown_version_of_a_collapsed_run_is_only_weights(nights: Nights) -> None:
    collapsed = nights.night("one", 4, None, collapsed=True, state="failed")
    collapsed.last_version = nights.add_version("one", 4)
    nights.ledger(0, collapsed.last_version, "publish", "swap")
    assert beginning(nights) == Beginning(None, None, 0, 1)


def test_steps_that_trained_nothing_after_the_champion_are_not_repeated(nights: Nights) -> None:
    one = nights.night("one", 3, "promoted")
    nights.promote(one)
    one.step = 5
    nights.night("two", 3, "rejected")
    assert beginning(nights) == Beginning("one", 5, 5, 1)


def test_a_clock_that_was_set_back_changes_no_order(nights: Nights) -> None:
    nights.clock = 10_000.0
    one = nights.night("one", 3, "promoted")
    nights.promote(one)
    nights.clock -= 3_600
    assert one.last_version is not None
    nights.ledger(one.last_version, 0, "rollback", "watch")
    assert beginning(nights) == Beginning(None, None, 0, 1), "rolled back after the night, by a clock before it"
    nights.night("a-two", 2, "continued")
    assert beginning(nights) == Beginning("a-two", 2, 2, 1), "the last run, by a clock before the first"
    nights.night("a-three", 2, "continued")
    assert beginning(nights) == Beginning("a-three", 2, 4, 1)


def claimable(nights: Nights) -> str | None:
    run = claimable_run(nights.session, "learner", None, nights.clock)
    return None if run is None else run.id


def test_the_next_run_of_a_campaign_waits_until_a_paused_one_has_ended(nights: Nights) -> None:
    paused = nights.night("one", 2, None, state="running")
    paused.state = "paused"
    for name, campaign in (("two", "nightly"), ("three", None)):
        nights.session.add(
            RunRow(
                id=name, state="queued", trigger="t", config={}, step=0, campaign_id=campaign, created_at=nights.clock
            )
        )
    nights.session.flush()
    assert claimable(nights) == "three", "a run by itself does not wait"
    paused.state = "queued"
    assert claimable(nights) == "one", "it continues at its step"
    paused.state, paused.ended_at = "done", nights.clock
    nights.session.flush()
    assert claimable(nights) == "three"
    nights.session.delete(nights.session.get_one(RunRow, "three"))
    nights.session.flush()
    assert claimable(nights) == "two"
