"""Adding a promotion objection takes one decorated function: the gate then refuses candidates with its text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from server.training.gate_rule import Comparison, Measured, Pair, decide
from server.training.objections import OBJECTIONS, objection
from server.training.settings import GateSettings
from upturn.wire import GateEvidence

TASKS = [f"task {number}" for number in range(20)]


def results(success: bool) -> Measured:
    return Measured(("eval",), {task: [success] * 4 for task in TASKS}, episodes=80, steps=100, invalid_steps=0)


COMPARED = Comparison(1, 2, 10, {"textcraft": Pair(results(False), results(True))}, {})


@pytest.fixture
def temporarily() -> Iterator[None]:
    """Remove the objections that a test adds."""
    before = [*OBJECTIONS]
    yield
    OBJECTIONS[:] = before


@pytest.mark.usefixtures("temporarily")
def test_one_function_adds_an_objection() -> None:
    assert decide(GateSettings(), COMPARED).promoted

    @objection
    def too_good_to_be_true(evidence: GateEvidence, _: GateSettings) -> Iterator[str]:
        """The candidate succeeds in every episode of an environment."""
        for name, result in evidence.environments.items():
            if result.candidate.success_rate == 1.0:
                yield f"{name}: every episode of version {evidence.candidate} succeeded"

    refused = decide(GateSettings(), COMPARED)
    assert not refused.promoted
    assert refused.objections == ["textcraft: every episode of version 2 succeeded"]


def test_an_objection_added_by_a_test_is_removed_afterwards() -> None:
    evidence = decide(GateSettings(), COMPARED)
    assert evidence.promoted and evidence.objections == []


def test_every_objection_has_a_docstring() -> None:
    assert len(OBJECTIONS) >= 9
    assert all(function.__doc__ for function in OBJECTIONS)
