"""The gate at work: evaluations that come together or break, and runs without a candidate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.environments.settings import EnvironmentSettings
from server.errors import Conflict, Unavailable
from server.store.tables import PlayRow, PromotionRow, RunRow
from server.training.evaluations import Unmeasurable
from server.wiring.parts import Parts
from tests.support.in_process import Held, claimed, publication, rows, running
from tests.support.live import script, settings_for
from upturn.wire import EvaluationPlan, FixedHorizon, GateEvidence, RunEnd, RunView

ENVIRONMENT = "odd/inline:x"
TASKS = [f"train/{number}" for number in range(10)]
PLAN = EvaluationPlan(tasks={ENVIRONMENT: TASKS}, repetitions=1)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    model = script(tmp_path / "script", "add 1")
    environments = EnvironmentSettings(modules=["tests.support.environments.odd_inline"], workers=0)
    settings = settings_for(tmp_path / "data", model=str(model), weights="adapter", environments=environments)
    async with running(settings) as made:
        yield made


async def begun(parts: Parts, plan: EvaluationPlan = PLAN) -> RunView:
    schedule = FixedHorizon(horizon=1).model_dump()
    return await claimed(parts, steps=1, evaluation=plan.model_dump(), schedule=schedule)


async def ended(parts: Parts, *answers: str, state: str = "done") -> RunView:
    """Train a version for each answer, and end the run."""
    run = await begun(parts)
    for step, answer in enumerate(answers):
        await parts.publisher.publish(publication(parts, answer, run.id, step))
    await parts.runs.end(run.id, RunEnd.model_validate({"learner": "tester", "state": state, "reason": "tested"}))
    return run


def newest(parts: Parts) -> PromotionRow:
    return rows(parts, PromotionRow)[-1]


async def test_a_better_candidate_is_promoted_and_a_worse_one_rejected(parts: Parts) -> None:
    await ended(parts, "win")
    await parts.gate.check()
    assert (newest(parts).action, newest(parts).to_version, parts.pointers.champion) == ("promote", 1, 1)
    await ended(parts, "add 1")
    await parts.gate.check()
    assert (newest(parts).action, newest(parts).from_version, parts.pointers.champion) == ("reject", 2, 1)
    before = len(rows(parts, PromotionRow)), len(rows(parts, PlayRow))
    await parts.gate.check()
    assert (len(rows(parts, PromotionRow)), len(rows(parts, PlayRow))) == before == (3, 4)


@pytest.mark.parametrize("error", [RuntimeError("broken inside"), Unmeasurable("it cannot be measured")])
async def test_an_evaluation_that_breaks_rejects_the_candidate_with_its_reason(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await ended(parts, "win")

    async def measure(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(parts.gate._evaluations, "measure", measure)
    await parts.gate.check()
    row = newest(parts)
    said = f"RuntimeError: {error}" if isinstance(error, RuntimeError) else str(error)
    assert (row.action, row.reason, parts.pointers.champion) == ("reject", f"nothing can be decided: {said}", 0)
    assert isinstance(row.evidence, dict) and not GateEvidence.model_validate(row.evidence).promoted


async def test_a_database_that_is_away_decides_nothing(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await ended(parts, "win")

    async def measure(*_: Any) -> Any:
        raise Unavailable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(parts.gate._evaluations, "measure", measure)
        with pytest.raises(Unavailable):
            await parts.gate.check()
    assert rows(parts, RunRow)[0].gate == "due" and newest(parts).action == "first"
    await parts.gate.check()
    assert parts.pointers.champion == 1


async def test_a_version_is_evaluated_once_however_often_it_is_asked_for(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, held = await begun(parts), Held(parts, monkeypatch)
    measure = parts.gate._evaluations.measure
    first = await asyncio.gather(*(measure(run.id, 0, ENVIRONMENT, TASKS, PLAN, 1, 0.0) for _ in range(3)))
    assert first == [None] * 3 and len(rows(parts, PlayRow)) == 1
    held.go.set()
    results = await asyncio.gather(*(measure(run.id, 0, ENVIRONMENT, TASKS, PLAN, 1, 60.0) for _ in range(2)))
    assert results[0] == results[1] and results[0] is not None
    assert (results[0].episodes, results[0].steps, results[0].invalid_steps) == (10, 10, 0)
    assert len(rows(parts, PlayRow)) == 1


@pytest.mark.parametrize(("answers", "state"), [((), "done"), (("win",), "failed")])
async def test_a_run_without_a_good_end_has_no_champion(parts: Parts, answers: tuple[str, ...], state: str) -> None:
    run = await ended(parts, *answers, state=state)
    await parts.gate.check()
    assert parts.pointers.champion == 0 and not rows(parts, PlayRow)
    gate = (await parts.runs.view(run.id)).gate
    assert gate == ("rejected" if answers else "void")
    if answers:
        assert newest(parts).reason.startswith("the run did not end well: failed, tested")


async def test_a_candidate_promoted_by_hand_is_not_judged(parts: Parts) -> None:
    run = await ended(parts, "add 1")
    await parts.champions.promote(1, by="me")
    await parts.gate.check()
    assert (await parts.runs.view(run.id)).gate == "void" and parts.pointers.champion == 1


async def test_a_run_whose_candidates_could_never_be_judged_fails_before_its_first_step(parts: Parts) -> None:
    run = await begun(parts, PLAN.model_copy(update={"tasks": {ENVIRONMENT: ["train/none"]}}))
    with pytest.raises(Conflict, match=r"could never judge its candidates: .* has no task 'train/none'"):
        await parts.gate.ready(run.id, 0.0)
    failed = await parts.runs.view(run.id)
    assert failed.state == "failed" and "could never judge" in (failed.reason or "")
