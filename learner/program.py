"""The learner as a process: trains one run after another until it is stopped."""

from __future__ import annotations

import logging
import os
import signal
import time
from types import FrameType

import torch

from learner.checks import BadInput
from learner.guards import RunStopped
from learner.leases import STOPPING_S
from learner.loop import do_next_run
from learner.parallel import distributed
from learner.parallel.ending import ProcessFailed, ProcessGone
from learner.rehearsal import rehearse
from learner.settings import LearnerSettings
from learner.stopping import ending_in_time
from upturn import logs
from upturn.client import Client, UpturnAPIError

log = logging.getLogger("learner")


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived. Not an Exception, so that only the shutdown code catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def work(settings: LearnerSettings) -> int:
    """Set the process up, work until told to stop, and return the exit code."""
    first = int(os.environ.get("RANK", "0")) == 0  # other processes do the same and would log the same
    logs.configure(None if first else "error", messages=True)  # A learner sees token ids, never a text.
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.gpu_memory is not None and settings.torch_device().type == "cuda":
        torch.cuda.set_per_process_memory_fraction(settings.gpu_memory)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    with ending_in_time(lambda: _release(settings)):
        code = _until_stopped(settings)
        distributed.close(code)
    return code


def _until_stopped(settings: LearnerSettings) -> int:
    """Join the other processes and work; return the exit code."""
    try:
        distributed.start(settings.torch_device())
        with Client(settings.server, key=settings.key, timeout_s=600.0) as client:
            return _do_runs(client, settings)
    except Stopped as stopped:
        log.info("stopped by %s", stopped)
        distributed.stopped(f"stopped by {stopped}")
        return 130 if stopped.number == signal.SIGINT else 0
    except ProcessGone as gone:
        log.error("%s; all processes end, and the run continues when they are started again", gone)
        return 1


def _do_runs(client: Client, settings: LearnerSettings) -> int:
    """Train one run after another, or a single one with `--once`; return the exit code."""
    log.info("learner %s works for %s on %s", settings.learner, settings.server, settings.torch_device())
    try:
        settings.work_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.error("--work-dir %s cannot be used: %s", settings.work_dir, error)
        return 2
    if settings.rehearse is not None:
        return rehearse(client, settings, settings.rehearse)
    while True:
        code = 0
        try:
            run = do_next_run(client, settings)
        except Exception as error:  # the run has ended as failed with this reason; a service continues with the next
            code, run = 1, None
            if isinstance(error, UpturnAPIError) and error.code == "bad_path":
                log.error("%s", error.message)  # no run will accept this directory
                return 2
            if isinstance(error, UpturnAPIError | BadInput | RunStopped | ProcessFailed):
                log.error("%s", error)
            else:
                log.exception("the run failed")
        else:
            if run is not None:
                log.info("run %s is %s after %d steps: %s", run.id, run.state, run.step, run.reason)
                code = 0 if run.state == "done" else 1
        if settings.once or (code and distributed.count() > 1):  # the processes may be at different points
            if run is None and code == 0:
                log.info("no run waits")
            return code
        if run is None:
            time.sleep(settings.poll_s)


def _release(settings: LearnerSettings) -> None:
    """Give the run back from a process that does not stop by itself."""
    if os.environ.get("RANK", "0") == "0":
        with Client(settings.server, key=settings.key, timeout_s=STOPPING_S, retry_s=0.0) as client:
            client.release_run(settings.learner)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # shutdown is short; a second signal must not interrupt it
    distributed.interrupt(Stopped(number))
