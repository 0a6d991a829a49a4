"""What a run's config refuses before anything starts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from clients.wire import COMPARING, Guards, PlayPlan, RunConfig

ALONE = PlayPlan(environment="textcraft", tasks=["1/x"], group_size=1)


@pytest.mark.parametrize("algorithm", COMPARING)
def test_an_algorithm_that_needs_groups_refuses_plays_without(algorithm: str) -> None:
    with pytest.raises(ValidationError, match=r"play\.group_size is 1: set it to 2 or more, or take reinforce_pp"):
        RunConfig(steps=1, algorithm=algorithm, play=ALONE)
    assert RunConfig(steps=1, algorithm="reinforce_pp", play=ALONE).play == ALONE


def test_a_guard_of_a_reference_needs_one() -> None:
    with pytest.raises(ValidationError, match="set kl_coef above 0"):
        RunConfig(steps=1, guards=Guards(max_reference_kl=1.0))
    assert RunConfig(steps=1, kl_coef=0.001, guards=Guards(max_reference_kl=1.0)).kl_coef == 0.001
