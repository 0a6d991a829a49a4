"""The learner's leases on the server: a run, kept by heartbeats, and the batch of a learner step."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from learner.parallel import distributed
from learner.parallel.first import FirstProcessClient
from upturn.client import Client, UpturnAPIError
from upturn.wire import BatchRequest, BatchView

log = logging.getLogger(__name__)

LOST_CODES = frozenset({"run_cancelled", "run_ended", "lease_lost"})
"""Error codes with which the server says that a run no longer belongs to this learner."""


_JOIN_S = 1.0
"""Wait for a heartbeat in progress; a later one does no harm."""
STOPPING_S = 2.0
"""Wait for the server when this process was told to stop: what cannot be given back now is found by its lease."""


class RunLost(Exception):
    """The run was cancelled, or another learner holds it: stop, and change nothing further."""


class Heartbeat:
    """Sends heartbeats from a thread of process 0 while the `with` block lasts, and notices if the run is lost.

    Args:
        client: the server's client, which several threads may use.
        run_id: the run whose lease to keep.
        learner: name of the learner that holds it.
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
            self._thread.join(timeout=min(self._every_s, _JOIN_S))

    def check(self) -> None:
        """Raise in all processes if the run is lost. Every process must call it.

        Raises:
            RunLost: with the server's reason.
        """
        distributed.from_first(self.check_here)

    def check_here(self) -> None:
        """Raise in process 0 if the run is lost; other processes notice nothing.

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
                log.warning("heartbeat of run %s failed and will be sent again: %s", self._run_id, error)


@contextlib.contextmanager
def leased(client: FirstProcessClient, request: BatchRequest, heartbeat: Heartbeat) -> Iterator[BatchView]:
    """Lease a batch, waiting until it is gathered; return it if the `with` block is interrupted."""
    batch = client.lease_batch(request, on_progress=lambda _: heartbeat.check_here())
    try:
        yield batch
    except RunLost:
        raise  # the server has revoked the batch together with the run
    except BaseException as error:
        if not isinstance(error, Exception):
            client.hurry(STOPPING_S)
        client.return_batch(batch, request.learner)
        raise
