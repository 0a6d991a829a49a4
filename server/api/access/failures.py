"""Counts wrong keys by client address, so that whoever guesses keys is told to slow down."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from server.errors import RateLimited

PER_MINUTE = 300
"""Wrong keys that an address may send per minute, also in a burst."""
KEPT = 10_000
"""Maximum number of addresses in memory, beyond which the oldest are forgotten."""


class Failures:
    """A token bucket for each address. It counts wrong keys only, so no address locks out a right key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens left, and the clock's reading at that time."""

    def count(self, address: str) -> None:
        """Count a wrong key.

        Raises:
            RateLimited: the address has sent too many.
        """
        network, now = _network(address), self._clock()
        tokens, at = self._buckets.pop(network, (float(PER_MINUTE), now))
        tokens = min(PER_MINUTE, tokens + (now - at) * PER_MINUTE / 60)
        refused = tokens < 1
        self._buckets[network] = (tokens if refused else tokens - 1, now)
        if len(self._buckets) > KEPT:
            self._buckets.popitem(last=False)
        if refused:
            raise RateLimited(
                f"too many invalid API keys from {address}; check the key",
                code="too_many_invalid_keys",
                retry_after_s=math.ceil((1 - tokens) * 60 / PER_MINUTE),
            )


def _network(address: str) -> str:
    """Return an IPv4 address unchanged, and the /64 network of an IPv6 address, which one client may own whole."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(int(parsed) >> 64)
