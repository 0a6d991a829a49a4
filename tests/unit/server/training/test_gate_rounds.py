"""The gate plays in rounds, draws tasks anew, keeps some for the report, guards others, and spends its level."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.environments.settings import EnvironmentSettings
from server.store.tables import PlayRow, PromotionRow, RunRow
from server.training.evaluations import Evaluations, Unmeasurable
from server.versions import ledger
from server.wiring.parts import Parts
from tests.support.in_process import claimed, publication, rows, running
from tests.support.live import script, settings_for
from upturn.wire import EvaluationPlan, FixedHorizon, GateEvidence, RunEnd

ENVIRONMENT = "odd/inline:x"
POOL = [f"train/{number}" for number in range(60)]
PLAN = EvaluationPlan(tasks={ENVIRONMENT: POOL}, draw=40, report=10, repetitions=1)


@pytest.fixture(params=["adapter"])
async def parts(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Parts]:
    model = script(tmp_path / "script", "add 1")
    environments = EnvironmentSettings(modules=["tests.support.environments.odd_inline"], workers=0)
    settings = settings_for(tmp_path / "data", model=str(model), weights=request.param, environments=environments)
    async with running(settings) as made:
        yield made


async def ended(parts: Parts, answer: str, plan: EvaluationPlan = PLAN) -> str:
    """Train a version that gives an answer, and end the run."""
    schedule = FixedHorizon(horizon=1).model_dump()
    run = await claimed(parts, steps=1, evaluation=plan.model_dump(), schedule=schedule)
    await parts.publisher.publish(publication(parts, answer, run.id, 0))
    await parts.runs.end(run.id, RunEnd.model_validate({"learner": "tester", "state": "done", "reason": "tested"}))
    return run.id


async def judged(parts: Parts, answer: str, plan: EvaluationPlan = PLAN) -> GateEvidence:
    await ended(parts, answer, plan)
    await parts.gate.check()
    return GateEvidence.model_validate(rows(parts, PromotionRow)[-1].evidence)


def played(parts: Parts) -> list[tuple[str, list[str]]]:
    return [(row.request["policy"].partition("@")[2], row.request["tasks"]) for row in rows(parts, PlayRow)]


async def test_a_clear_gain_plays_one_round_and_then_the_tasks_that_only_report(parts: Parts) -> None:
    evidence = await judged(parts, "win")
    assert evidence.promoted and evidence.test is not None
    assert (evidence.test.rounds, evidence.test.planned_rounds, evidence.warnings) == (1, 4, [])
    first, second, third, fourth = played(parts)
    assert (first[0], second[0], third[0], fourth[0]) == ("0", "1", "0", "1")
    assert first[1] == second[1] and len(first[1]) == 10 and len(third[1]) == 10
    assert set(third[1]) == set(fourth[1]) and not set(third[1]) & set(first[1])
    report = evidence.report[ENVIRONMENT]
    assert report.champion is not None and (report.tasks, report.champion.success_rate) == (10, 0.0)
    assert report.candidate.success_rate == 1.0


async def test_a_hopeless_candidate_is_rejected_early_and_reports_nothing(parts: Parts) -> None:
    evidence = await judged(parts, "add 2")
    assert not evidence.promoted and evidence.report == {} and evidence.test is not None
    assert evidence.test.rounds < 4 and len(played(parts)) == 2 * evidence.test.rounds
    assert "after 2 of 4 rounds" in evidence.objections[0] or "after 1 of 4 rounds" in evidence.objections[0]


async def test_each_run_decides_on_other_tasks_and_never_on_those_that_report(parts: Parts) -> None:
    await judged(parts, "win")
    reported = set(played(parts)[-1][1])
    await judged(parts, "add 1")
    first, second = played(parts)[0][1], played(parts)[4][1]
    assert set(first) != set(second) and not reported & set(second)
    seeds = [row.request["seed"] for row in rows(parts, PlayRow)]
    assert seeds[0] == seeds[1] != seeds[4] and seeds[2] == PLAN.seed


async def test_each_rejection_spends_its_level_and_a_promotion_renews_the_budget(parts: Parts) -> None:
    levels = [(await judged(parts, answer)).test for answer in ("add 2", "add 3", "win", "add 1")]
    assert [test and test.level for test in levels] == pytest.approx([0.025, 0.00075, 0.0007275, 0.025])
    with parts.database.read() as session:
        assert ledger.spent_levels(session) == pytest.approx(0.025)


async def test_decisions_that_measured_nothing_spend_nothing(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    async def measure(*_: Any) -> Any:
        raise Unmeasurable("it cannot be measured")

    with monkeypatch.context() as patch:
        patch.setattr(parts.gate._evaluations, "measure", measure)
        assert (await judged(parts, "win")).test is None
    evidence = await judged(parts, "win again")
    assert evidence.promoted and evidence.test is not None and evidence.test.spent == 0.0


async def test_guards_are_played_only_for_candidates_that_would_be_promoted(parts: Parts) -> None:
    guards = {ENVIRONMENT: [f"train/{number}" for number in range(100, 112)]}
    plan = PLAN.model_copy(update={"guards": guards, "report": 0})
    assert not (await judged(parts, "add 2", plan)).guards
    evidence = await judged(parts, "win", plan)
    assert (
        evidence.promoted and evidence.guards[ENVIRONMENT].tasks == 12 and played(parts)[-1][1] == guards[ENVIRONMENT]
    )


async def test_a_report_that_cannot_be_played_changes_no_decision(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Evaluations.measure

    async def measure(self: Evaluations, *args: Any) -> Any:
        plays = rows(parts, PlayRow)
        if plays and args[3] != plays[0].request["tasks"]:
            raise Unmeasurable("it is broken")
        return await real(self, *args)

    monkeypatch.setattr(Evaluations, "measure", measure)
    evidence = await judged(parts, "win")
    assert evidence.promoted and evidence.report == {}
    assert evidence.warnings == ["not all tasks that report have results: it is broken"]


async def test_tasks_that_decide_each_time_are_named_in_the_evidence(parts: Parts) -> None:
    evidence = await judged(parts, "win", EvaluationPlan(tasks={ENVIRONMENT: POOL[:20]}, repetitions=1))
    assert evidence.warnings == [
        f"{ENVIRONMENT}: all 20 tasks decide each time; with more tasks than `draw`, each decision draws others"
    ]


async def test_a_gate_that_stops_between_rounds_continues_with_the_same_tasks_and_plays_none_twice(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await ended(parts, "win")
    real = Evaluations.measure

    async def measure(self: Evaluations, *args: Any) -> Any:
        if args[1] == 1:
            raise KeyboardInterrupt
        return await real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluations, "measure", measure)
        with pytest.raises(KeyboardInterrupt):
            await parts.gate.check()
    assert len(played(parts)) == 1 and rows(parts, RunRow)[0].gate == "due"
    await parts.gate.check()
    first, second = played(parts)[:2]
    assert (first[0], second[0]) == ("0", "1") and first[1] == second[1]
    assert (await parts.runs.view(run_id)).gate == "promoted"


async def test_results_of_a_play_with_more_tasks_count_for_the_tasks_asked(parts: Parts) -> None:
    schedule = FixedHorizon(horizon=1).model_dump()
    run = await claimed(parts, steps=1, evaluation=PLAN.model_dump(), schedule=schedule)
    measure = parts.gate._evaluations.measure
    await measure(run.id, 0, ENVIRONMENT, POOL[:12], PLAN, 1, 60.0)
    part = await measure(run.id, 0, ENVIRONMENT, POOL[:5], PLAN, 1, 60.0)
    assert part is not None and len(rows(parts, PlayRow)) == 1
    assert (sorted(part.verdicts), part.episodes, part.steps) == (sorted(POOL[:5]), 5, 5)


@pytest.mark.parametrize("parts", ["full"], indirect=True)
async def test_with_full_weights_the_champion_plays_every_round_and_guard_before_the_first_step(parts: Parts) -> None:
    plan = PLAN.model_copy(update={"guards": {ENVIRONMENT: (guards := [f"train/{n}" for n in range(100, 110)])}})
    schedule = FixedHorizon(horizon=1).model_dump()
    run = await claimed(parts, steps=1, kind="full", evaluation=plan.model_dump(), schedule=schedule)
    assert await parts.gate.ready(run.id, 60.0)
    before = played(parts)
    assert [version for version, _ in before] == ["0"] * 5 and before[-1][1] == guards
    assert len({task for _, tasks in before[:-1] for task in tasks}) == 40
    await parts.publisher.publish(publication(parts, "win", run.id, 0))
    await parts.runs.end(run.id, RunEnd.model_validate({"learner": "tester", "state": "done", "reason": "tested"}))
    await parts.gate.check()
    evidence = GateEvidence.model_validate(rows(parts, PromotionRow)[-1].evidence)
    assert evidence.promoted and evidence.guards[ENVIRONMENT].tasks == 10
    report = evidence.report[ENVIRONMENT]
    assert report.champion is None and report.candidate.success_rate == 1.0
    assert [version for version, _ in played(parts)[5:]] == ["1"] * 3
