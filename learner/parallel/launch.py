"""`python -m learner.parallel.launch --processes N --server URL`: the learner on several processes or machines."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

log = logging.getLogger("learner.parallel.launch")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(
        prog="python -m learner.parallel.launch",
        description="Runs `python -m learner run` as several processes that share one model and each batch.",
        epilog="All other options are those of `python -m learner run`, and go to every process.",
        allow_abbrev=False,
    )
    top.add_argument(
        "--processes", type=_positive, required=True, metavar="N", help="processes on this machine: one a GPU"
    )
    top.add_argument(
        "--machines", type=_positive, default=1, metavar="N", help="machines that run this same command (%(default)s)"
    )
    top.add_argument("--meet", metavar="HOST:PORT", help="where the machines meet: one of them, and a free port there")
    top.add_argument("--job", default="upturn", metavar="NAME", help="what the machines share (%(default)s)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the processes to their end; return the exit code."""
    own, learner = parser().parse_known_args(arguments)
    if own.machines > 1 and own.meet is None:
        parser().error("several machines need --meet HOST:PORT")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # many lines for what is one below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // own.processes)))
    config = LaunchConfig(
        min_nodes=own.machines,
        max_nodes=own.machines,
        nproc_per_node=own.processes,
        run_id=own.job,
        rdzv_backend="c10d",
        rdzv_endpoint=own.meet or "localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "learner", "run", *learner)
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


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
