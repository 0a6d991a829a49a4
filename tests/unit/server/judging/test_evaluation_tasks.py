"""The tasks of a decision: drawn anew for each run, and never those that report."""

from __future__ import annotations

import pytest

from server.errors import BadRequest
from server.training.judging.evaluation_tasks import EvaluationTasks, evaluation_tasks
from upturn.wire import EvaluationPlan

POOL = [f"train/{number}" for number in range(200)]


def drawn(run_id: str = "run_1", listed: list[str] | None = None, **more: object) -> EvaluationTasks:
    return evaluation_tasks(EvaluationPlan.model_validate({"tasks": {"e": listed or POOL}, **more}), run_id)


def deciding(tasks: EvaluationTasks) -> list[str]:
    return [task for listed in tasks.rounds for task in listed["e"]]


def test_each_run_draws_other_tasks_and_the_same_run_the_same() -> None:
    first, second = drawn(draw=50), drawn("run_2", draw=50)
    assert first == drawn(draw=50) and first != second
    assert len(set(deciding(first))) == 50 and set(deciding(first)) != set(deciding(second))
    assert first.frozen == [] and first.seed != second.seed
    assert drawn().seed == drawn("run_2").seed == 1000


def test_no_run_and_no_seed_decides_on_a_task_that_reports() -> None:
    reporting = set(drawn(draw=50, report=40).report["e"])
    assert len(reporting) == 40
    for run in range(20):
        tasks = drawn(f"run_{run}", draw=160, report=40, seed=run)
        assert set(tasks.report["e"]) == reporting and reporting.isdisjoint(deciding(tasks))


def test_most_tasks_that_report_stay_the_same_when_tasks_are_added() -> None:
    before, after = drawn(report=40).report["e"], drawn(listed=[*POOL, *map(str, range(10))], report=40).report["e"]
    assert len(set(before) & set(after)) >= 30


@pytest.mark.parametrize(
    ("tasks", "rounds", "count"), [(9, 8, 1), (10, 8, 1), (25, 8, 2), (100, 8, 8), (100, 1, 1), (35, 100, 3)]
)
def test_rounds_have_at_least_ten_tasks_and_each_task_is_in_one(tasks: int, rounds: int, count: int) -> None:
    found = drawn(listed=POOL[:tasks], rounds=rounds)
    assert len(found.rounds) == count and sorted(deciding(found)) == sorted(POOL[:tasks])
    assert found.frozen == ["e"]


def test_every_round_has_tasks_of_every_environment() -> None:
    plan = EvaluationPlan(tasks={"a": POOL, "b": POOL[:20]}, guards={"g": POOL[:10]})
    found = evaluation_tasks(plan, "run")
    assert [{name: len(listed) for name, listed in part.items()} for part in found.rounds] == [{"a": 100, "b": 10}] * 2
    assert found.guards == {"g": POOL[:10]}


@pytest.mark.parametrize("more", [{"draw": 201}, {"draw": 150, "report": 51}, {"report": 200}])
def test_a_plan_that_asks_for_more_tasks_than_there_are_says_how_many_are_needed(more: dict[str, int]) -> None:
    with pytest.raises(BadRequest, match="e has 200 tasks to evaluate, 201 are needed: name more tasks"):
        drawn(**more)


def test_a_guard_environment_with_too_few_tasks_to_rule_out_a_fall_is_refused() -> None:
    with pytest.raises(BadRequest, match="the guard environment g has 9 tasks, 10 are needed"):
        drawn(guards={"g": POOL[:9]})
