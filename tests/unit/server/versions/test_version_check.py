"""Which differences between the engine's and the learner's logprobs make a loaded version serve, or refuse it."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest

from server.engines.protocol import Engine
from server.errors import BadRequest, Conflict
from server.versions.check import check_version
from upturn.wire import Probe

pytestmark = pytest.mark.anyio


class Fixed:
    """Answers with fixed logprobs of a probe."""

    check_tolerance = 0.25

    def __init__(self, served: list[float | None]) -> None:
        self.served = served
        self.asked: list[tuple[int, list[int]]] = []

    async def spot_check(self, version: int, token_ids: list[int]) -> list[float | None]:
        self.asked.append((version, token_ids))
        return self.served


def checked(served: list[float | None], trained: list[float], tokens: int | None = None) -> Any:
    ids = list(range(len(trained) + 1 if tokens is None else tokens))
    return check_version(cast(Engine, Fixed(served)), 3, probe(ids, trained))


def probe(token_ids: list[int], logprobs: list[float]) -> Probe:
    """Return a probe that may be shorter than a learner's."""
    return Probe.model_construct(token_ids=token_ids, logprobs=logprobs)


async def test_the_mean_and_the_largest_difference_are_taken_over_the_compared_tokens() -> None:
    check = await checked(
        [-1.0, None, -2.5, -3.0, -4.0, -5.0, -6.5, -7.0, -8.0], [-1.5, -90.0, -2.0, *range(-3, -9, -1)]
    )
    assert (check.mean, check.max) == (pytest.approx(0.1875), 0.5)
    check = await checked([-1.0] * 8, [-1.0] * 8)
    assert (check.mean, check.max) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("gap", "serves"), [(0.25, True), (0.2500001, False), (-0.25, True), (-0.26, False), (9.0, False)]
)
async def test_the_mean_difference_may_be_as_large_as_the_engines_tolerance(gap: float, serves: bool) -> None:
    check = checked([gap - 1] * 20, [-1.0] * 20)
    if serves:
        assert (await check).mean == pytest.approx(abs(gap))
    else:
        with pytest.raises(Conflict, match="nats on average") as refused:
            await check
        assert refused.value.code == "check_failed"


async def test_a_difference_that_is_no_number_refuses_the_version() -> None:
    with pytest.raises(Conflict, match="differ"):
        await checked([math.nan, *[-1.0] * 9], [-1.0] * 10)
    with pytest.raises(Conflict, match="differ"):
        await checked([-math.inf, *[-1.0] * 9], [-1.0] * 10)


@pytest.mark.parametrize(("compared", "of", "serves"), [(6, 20, True), (5, 20, False), (0, 20, False), (3, 3, True)])
async def test_six_tokens_of_a_probe_must_be_compared_or_all_of_a_shorter_one(
    compared: int, of: int, serves: bool
) -> None:
    check = checked([*[-1.0] * compared, *[None] * (of - compared)], [-1.0] * of)
    if serves:
        assert (await check).max == 0.0
    else:
        with pytest.raises(Conflict, match=f"only {compared} of the probe's tokens") as refused:
            await check
        assert refused.value.code == "check_failed"


@pytest.mark.parametrize("tokens", [8, 10])
async def test_a_probe_has_one_logprob_for_each_token_after_the_first(tokens: int) -> None:
    with pytest.raises(BadRequest, match="T-1 logprobs") as refused:
        await checked([-1.0] * 8, [-1.0] * 8, tokens)
    assert refused.value.code == "bad_probe"


async def test_the_version_is_asked_for_the_whole_probe() -> None:
    engine = Fixed([-1.0] * 6)
    await check_version(cast(Engine, engine), 5, probe([7, 6, 5, 4, 3, 2, 1], [-1.0] * 6))
    assert engine.asked == [(5, [7, 6, 5, 4, 3, 2, 1])]
