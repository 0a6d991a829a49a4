"""The level of each decision: little enough in sum, and the full one after each promotion."""

from __future__ import annotations

import pytest

from server.training.judging.error_budget import next_level
from server.training.settings import GateSettings


@pytest.mark.parametrize("share", [0.01, 0.03, 0.5, 0.99])
@pytest.mark.parametrize("budget", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_the_levels_of_any_number_of_decisions_sum_up_to_at_most_the_budget(
    share: float, budget: float, confidence: float
) -> None:
    rule = GateSettings(later_share=share, max_false_promotions=budget, confidence=confidence)
    spent = 0.0
    for _ in range(1000):
        level = next_level(rule, spent)
        assert 0 <= level <= (1 - confidence) / 2 + 1e-12
        spent += level
    assert spent <= budget + 1e-9


def test_the_first_decision_has_the_level_of_the_confidence_and_later_ones_a_share_of_the_rest() -> None:
    rule = GateSettings()
    assert next_level(rule, 0.0) == pytest.approx(0.025)
    assert next_level(rule, 0.025) == pytest.approx(0.03 * 0.025)
    assert next_level(rule, 0.06) == 0.0, "a budget that was lowered meanwhile is not exceeded further"


def test_without_a_budget_every_decision_has_the_level_of_the_confidence() -> None:
    assert next_level(GateSettings(max_false_promotions=None), 3.0) == pytest.approx(0.025)
