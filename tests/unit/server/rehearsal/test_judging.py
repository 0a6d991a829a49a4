"""Whether the gate could promote anything tonight."""

from __future__ import annotations

from server.training.judging.evaluation_tasks import EvaluationTasks
from server.training.rehearsal.judging import gate_findings
from server.training.settings import GateSettings
from upturn.wire import RunConfig

CONFIG = RunConfig(steps=1)


def texts(tasks: int, spent: float = 0.0, **more: float) -> list[tuple[str, str]]:
    listed = [f"t/{number}" for number in range(tasks)]
    chosen = EvaluationTasks([{"maze": listed[:5]}, {"maze": listed[5:]}], {}, {}, ["maze"], 0)
    rule = GateSettings.model_validate(more)
    return [(found.result, found.text) for found in gate_findings(CONFIG, chosen, rule, spent)]


def test_enough_tasks_are_ok_and_said_to_be_the_same_each_night() -> None:
    ((result, text),) = texts(10)
    assert result == "ok" and text == (
        "10 tasks of maze decide at horizon 10 in up to 2 rounds; those of maze are the same each night"
    )


def test_fewer_tasks_than_the_gate_needs_fail() -> None:
    ((result, text),) = texts(9)
    assert result == "failed" and "9 tasks of maze decide, and gate.min_tasks is 10" in text


def test_too_few_tasks_for_the_level_that_earlier_nights_left_fail() -> None:
    ((result, text),) = texts(10, spent=0.04)
    assert result == "failed" and "10 tasks would not be significant at the level 0.0003" in text
    assert texts(20, spent=0.04)[0][0] == "ok"
