"""`python -m learner run --server URL`: the learner, or one of its processes (`parallel/launch.py`)."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

import torch
from pydantic import ValidationError

from learner.checks import BadInput
from learner.guards import RunStopped
from learner.loop import do_next_run
from learner.parallel import distributed
from learner.parallel.distributed import ProcessFailed, ProcessGone
from learner.settings import LearnerSettings
from upturn.client import Client, UpturnAPIError

log = logging.getLogger("learner")


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived. Not an Exception: nothing but the way out catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(
        prog="python -m learner",
        description="Trains the policies of an Upturn server on its recorded episodes.",
    )
    run = top.add_subparsers(dest="command", required=True).add_parser(
        "run",
        help="do the training runs that wait on the server",
        description="Claims training runs from the server, trains them, and publishes each new version.",
    )
    default = LearnerSettings(server="", learner="-")
    run.add_argument("--server", required=True, metavar="URL", help="address of the server: http://127.0.0.1:8000")
    run.add_argument("--run", metavar="ID", help="only this run; without it the oldest that waits")
    run.add_argument("--once", action="store_true", help="end after one run, or at once where none waits")
    run.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default=default.device,
        help="where to train; auto is CUDA if there",
    )
    run.add_argument("--threads", type=int, metavar="N", help="CPU threads; without it torch decides")
    run.add_argument(
        "--gpu-memory",
        type=float,
        metavar="SHARE",
        help="most of the GPU's memory to take, such as 0.45; without it all that is free",
    )
    run.add_argument(
        "--work-dir",
        type=Path,
        default=default.work_dir,
        metavar="DIR",
        help="versions and checkpoints; the server must see it under the same path (default: %(default)s)",
    )
    run.add_argument(
        "--learner", metavar="NAME", help="unique name of this learner, kept over restarts; without it a fresh one"
    )
    run.add_argument(
        "--max-row-tokens",
        type=int,
        metavar="N",
        help="tokens in a packed row, which decides the memory of a step (4096 on CUDA, 2048 on a CPU)",
    )
    run.add_argument(
        "--activation-checkpointing", action="store_true", help="less memory, a quarter slower: compute layers again"
    )
    run.add_argument("--compile", action="store_true", help="compile the layers with torch.compile")
    run.add_argument("--liger", action="store_true", help="Liger's kernels; needs CUDA and the extra `liger`")
    run.add_argument(
        "--heartbeat-s",
        type=float,
        default=default.heartbeat_s,
        metavar="S",
        help="seconds between heartbeats (%(default)s)",
    )
    run.epilog = "The API key is read from UPTURN_KEY. SIGTERM or Ctrl-C gives the batch back and ends."
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit code."""
    given = vars(parser().parse_args(arguments))
    given.pop("command")
    given["learner"] = given["learner"] or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        settings = LearnerSettings(key=os.environ.get("UPTURN_KEY"), **given)
    except ValidationError as error:
        print(error, file=sys.stderr)
        return 2
    first = int(os.environ.get("RANK", "0")) == 0  # the others do the same, and would say the same
    logging.basicConfig(
        level=logging.INFO if first else logging.ERROR, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.gpu_memory is not None and settings.torch_device().type == "cuda":
        torch.cuda.set_per_process_memory_fraction(settings.gpu_memory)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    code = _run(settings)
    distributed.close(code)
    return code


def _run(settings: LearnerSettings) -> int:
    """Work until told to stop; return the exit code."""
    try:
        distributed.start(settings.torch_device())
        with Client(settings.server, key=settings.key, timeout_s=600.0) as client:
            return _serve(client, settings)
    except Stopped as stopped:
        log.info("stopped by %s", stopped)
        distributed.stopped(f"stopped by {stopped}")
        return 130 if stopped.number == signal.SIGINT else 0
    except ProcessGone as gone:
        log.error("%s; all processes end, and the run goes on when they are started again", gone)
        return 1


def _serve(client: Client, settings: LearnerSettings) -> int:
    """Do runs until told to stop, or one with `--once`."""
    log.info("learner %s works for %s on %s", settings.learner, settings.server, settings.torch_device())
    while True:
        code = 0
        try:
            run = do_next_run(client, settings)
        except Exception as error:  # the run has ended as failed with this reason; a service goes on with the next
            code, run = 1, None
            if isinstance(error, UpturnAPIError | BadInput | RunStopped | ProcessFailed):
                log.error("%s", error)
            else:
                log.exception("the run failed")
        else:
            if run is not None:
                log.info("run %s is %s after %d steps: %s", run.id, run.state, run.step, run.reason)
                code = 0 if run.state == "done" else 1
        if settings.once or (code and distributed.count() > 1):  # they may not agree on where they are
            if run is None and code == 0:
                log.info("no run waits")
            return code
        if run is None:
            time.sleep(settings.poll_s)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # the way out is short; a second signal must not cut it
    distributed.interrupt(Stopped(number))


if __name__ == "__main__":
    sys.exit(main())
