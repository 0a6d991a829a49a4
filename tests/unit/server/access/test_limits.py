"""A key's limits, with an injected clock."""

from __future__ import annotations

import pytest

from server.api.access.limits import Limit, Limits
from server.errors import RateLimited


class Clock:
    """A clock that stands still until a test advances it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(limits: Limits, limit: Limit) -> int:
    with pytest.raises(RateLimited) as error:
        limits.enter(limit)
    assert error.value.retry_after_s is not None
    return error.value.retry_after_s


def test_a_minutes_requests_are_allowed_in_a_burst_and_then_refill_evenly() -> None:
    clock = Clock()
    limits, limit = Limits(clock), Limit("k", requests_per_minute=6, max_concurrent=None)
    for _ in range(6):
        limits.enter(limit)
    assert refused(limits, limit) == 10
    clock.now += 9.0
    assert refused(limits, limit) == 1
    clock.now += 1.0
    limits.enter(limit)
    assert refused(limits, limit) == 10
    clock.now += 3600.0
    for _ in range(6):
        limits.enter(limit)
    refused(limits, limit)


def test_a_request_after_the_retry_delay_is_allowed() -> None:
    clock = Clock()
    for rate in (1, 7, 59, 60, 61, 997):
        limits, limit = Limits(clock), Limit("k", requests_per_minute=rate, max_concurrent=None)
        for _ in range(rate):
            limits.enter(limit)
        clock.now += refused(limits, limit)
        limits.enter(limit)


def test_concurrent_requests_count_until_they_leave() -> None:
    limits, limit = Limits(Clock()), Limit("k", requests_per_minute=None, max_concurrent=2)
    limits.enter(limit)
    limits.enter(limit)
    assert refused(limits, limit) == 1
    limits.leave(limit)
    limits.enter(limit)
    refused(limits, limit)


def test_a_refused_request_consumes_nothing() -> None:
    limits, limit = Limits(Clock()), Limit("k", requests_per_minute=2, max_concurrent=1)
    limits.enter(limit)
    for _ in range(5):
        refused(limits, limit)
    limits.leave(limit)
    limits.enter(limit)


def test_each_key_has_its_own_limits_or_no_limit() -> None:
    limits = Limits(Clock())
    one, two = (Limit(name, requests_per_minute=1, max_concurrent=1) for name in "ab")
    limits.enter(one)
    limits.enter(two)
    refused(limits, one)
    for _ in range(100):
        limits.enter(None)
        limits.enter(Limit("free", None, None))
    limits.leave(None)
