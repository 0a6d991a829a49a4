"""The level of the gate's next decision: false promotions are rare over all nights, not only in one (step 13).

Each decision spends a part of `gate.max_false_promotions` (alpha-investing: Foster and Stine, 2008; with a fresh budget
after each promotion, as LORD: Javanmard and Montanari, 2018). The first decision spends the level of
`gate.confidence`, each later one `gate.later_share` of what is left, so the sum never exceeds the budget. A promotion
renews it. Decisions that measured nothing spend nothing. What has been spent is read from the ledger.
"""

from __future__ import annotations

from server.training.settings import GateSettings


def next_level(rule: GateSettings, spent: float) -> float:
    """Return the level of the next decision.

    Args:
        rule: confidence, budget, and share of later decisions.
        spent: sum of the levels of all decisions since the last promotion.
    """
    level, budget = (1 - rule.confidence) / 2, rule.max_false_promotions
    if budget is None:
        return level
    if spent == 0:
        return min(level, budget / 2)
    return max(0.0, min(level, rule.later_share * (budget - spent)))
