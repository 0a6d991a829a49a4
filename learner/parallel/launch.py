"""Starts the learner as several processes on one machine or several: `python -m learner launch`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from upturn import logs

log = logging.getLogger("learner.parallel.launch")


def launch_processes(arguments: Sequence[str], processes: int, machines: int, meet: str | None, job: str) -> int:
    """Run `python -m learner run` as several processes to their end; return the exit code.

    Args:
        arguments: command line of every process after `run`.
        processes: number of processes on this machine.
        machines: number of machines that call this with the same arguments.
        meet: HOST:PORT where several machines meet; None for one machine.
        job: name of the group that meets there.
    """
    logs.configure(messages=True)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # one line below replaces many
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=processes,
        run_id=job,
        rdzv_backend="c10d",
        rdzv_endpoint=meet or "localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "learner", "run", *arguments)
    except ChildFailedError as failed:
        process, failure = failed.get_first_failure()
        how = (
            f"was ended by {signal.Signals(-failure.exitcode).name}"
            if failure.exitcode < 0
            else f"ended with code {failure.exitcode}"
        )
        log.error("process %d of the learner %s, so all were ended", process, how)
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as stopped:
        return 130 if stopped.sigval == signal.SIGINT else 0
    return 0
