"""Draining: a server that is stopping refuses new calls, and waits for the calls in progress."""

from __future__ import annotations

import asyncio
import time

from server.errors import Unavailable

POLL_S = 0.05
READS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods of requests that are answered until the end, and that the end does not wait for: some are endless streams."""


class Draining:
    """Counts the calls in progress; signal handlers may set the two flags."""

    def __init__(self) -> None:
        self.begun = False
        """The server is stopping."""
        self.hurried = False
        """It stops without waiting."""
        self.calls = 0
        """Number of calls in progress."""

    def check(self) -> None:
        """Raise `Unavailable` if the server is stopping."""
        if self.begun:
            raise Unavailable("the server is stopping; try again in a moment", code="draining")

    async def wait(self, most_s: float) -> None:
        """Wait until no call is in progress, for at most `most_s` seconds."""
        deadline = time.monotonic() + most_s
        while self.calls and not self.hurried and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
