"""The heartbeat: a thread that keeps a run's lease while the learner is busy, and notices when the run is lost."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from learner.parallel import distributed
from upturn.client import Client, UpturnAPIError

log = logging.getLogger(__name__)

LOST_CODES = frozenset({"run_cancelled", "run_ended", "lease_lost"})
"""Error codes by which the server says that a run is not this learner's any more."""


class RunLost(Exception):
    """The run was cancelled, or another learner holds it: stop, and change nothing more."""


class Heartbeat:
    """Posts a heartbeat while the `with` block lasts; `check()` raises once the run is lost.

    Args:
        client: the server's client; it may be used by several threads.
        run_id: the run whose lease to keep.
        learner: the name that holds it.
        every_s: pause between two heartbeats.
    """

    def __init__(self, client: Client, run_id: str, learner: str, every_s: float = 10.0) -> None:
        self._client = client
        self._run_id = run_id
        self._learner = learner
        self._every_s = every_s
        self._stop = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {run_id}", daemon=True)

    def __enter__(self) -> Self:
        if distributed.is_first():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if distributed.is_first():
            self._thread.join(timeout=self._every_s)

    def check(self) -> None:
        """Raise where the run is lost.

        Raises:
            RunLost: with the server's reason.
        """
        if self._lost is not None:
            raise RunLost(self._lost)

    def _beat(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._client.heartbeat_run(self._run_id, self._learner)
            except UpturnAPIError as error:
                if error.status in (404, 409):
                    self._lost = f"{error.code}: {error.message}"
                    return
                log.warning("heartbeat of run %s failed and is tried again: %s", self._run_id, error)
