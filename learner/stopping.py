"""A stop that takes a bounded time, whatever the process is doing.

Python runs a signal handler only between two of its own instructions, and one backward pass on a busy machine can take
minutes. The operating system's note of the signal is therefore read by a thread, which ends a process that still runs
after a grace period. Nothing is lost: a learner may be killed at any point, and the batch of its step is leased again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator

GRACE_S = 5.0
"""Time for the process to end by itself. The server kills the learner that it started after 8 s."""

log = logging.getLogger("learner")


@contextlib.contextmanager
def ending_in_time(give_back: Callable[[], None], grace_s: float = GRACE_S) -> Iterator[None]:
    """End this process soon after SIGTERM or SIGINT, even if the `with` block does not react.

    Args:
        give_back: called in a thread before the process is ended; it must return within seconds.
        grace_s: time between the signal and that call.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    ended = threading.Event()

    def watch() -> None:
        number = 0
        while number not in (signal.SIGTERM, signal.SIGINT):
            if not (note := os.read(reading, 1)):
                return
            number = note[0]
        if ended.wait(grace_s):
            return
        log.warning("stopped by %s in the middle of a computation", signal.Signals(number).name)
        try:
            give_back()
        except Exception as error:
            log.warning("the run could not be given back; its lease will run out: %s", error)
        if not ended.is_set():
            logging.shutdown()
            os._exit(130 if number == signal.SIGINT else 0)

    thread = threading.Thread(target=watch, name="stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)
