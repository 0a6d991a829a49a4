"""Runs work on large inputs in a thread, so that the event loop answers other requests meanwhile.

Small work is done at once: a thread costs more than it saves. There are few threads, since Python computes in one at a
time anyway and every further one would delay the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

LIGHT = 40_000
"""Characters of input up to which work is done at once. A chat of this size takes about 10 ms to render."""
THREADS = 2

_threads = ThreadPoolExecutor(THREADS, "upturn-heavy")


async def run(weight: int, work: Callable[[], Result]) -> Result:
    """Return the result of `work`, computed in a thread if its input weighs more than `LIGHT`.

    Args:
        weight: size of the input in characters.
        work: the computation. It must not use the event loop.
    """
    if weight <= LIGHT:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_threads, work)
