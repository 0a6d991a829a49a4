"""The command line: `python -m learner run`, or `launch` for several processes. Its help needs no torch."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

try:
    import typer
except ModuleNotFoundError as error:  # Such as with the system's Python.
    sys.exit(f"python -m learner: {error}: run it with .venv/bin/python, which `python3 run.py setup` makes")
from pydantic import ValidationError

from learner.settings import LearnerSettings
from upturn.command.run import OPTIONS, options
from upturn.command.run import run as run_command
from upturn.packages import INSTALL

PROGRAM = "python -m learner"
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, context_settings=OPTIONS)
"""Without rich, whose tables cut the names of long options."""
app.callback(invoke_without_command=True, help="Train the policies of an Upturn server on its recorded episodes.")(
    options
)
_DEFAULT = LearnerSettings(server="", learner="-")


def main(arguments: list[str]) -> int:
    """Run a command; return its exit code."""
    return run_command(app, arguments, PROGRAM, "upturn-server")


@app.command(
    help="Claim training runs from the server, train them, and publish each new version.",
    short_help="Train the runs that wait on the server.",
    epilog="The API key is read from UPTURN_KEY. SIGTERM or Ctrl-C returns the batch and exits.",
)
def run(
    server: Annotated[str, typer.Option(metavar="URL", help="Address of the server: http://127.0.0.1:8000.")],
    run: Annotated[
        str | None, typer.Option(metavar="ID", help="Train only this run; by default the oldest waiting run.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Exit after one run, or at once if no run waits.")] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on; auto is CUDA if available.")
    ] = _DEFAULT.device,
    threads: Annotated[int | None, typer.Option(metavar="N", help="CPU threads; by default torch decides.")] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Maximum share of the GPU's memory, such as 0.45; by default no limit."),
    ] = None,
    work_dir: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Directory of versions and checkpoints; the server must see it under the same path."
        ),
    ] = _DEFAULT.work_dir,
    learner: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Unique name of this learner, kept across restarts; by default a new name."),
    ] = None,
    max_row_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Tokens in a packed row, which determines the memory of a step; by default 4096 on CUDA, 2048 on a "
            "CPU.",
        ),
    ] = None,
    activation_checkpointing: Annotated[
        bool,
        typer.Option(
            "--activation-checkpointing",
            help="Compute layers again in the backward pass: less memory, a quarter slower.",
        ),
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the layers with torch.compile.")] = False,
    liger: Annotated[
        bool, typer.Option("--liger", help="Use Liger's kernels; needs CUDA and the extra `liger`.")
    ] = False,
    rehearse: Annotated[Path | None, typer.Option(metavar="FILE", hidden=True)] = None,
    heartbeat_s: Annotated[float, typer.Option(metavar="S", help="Seconds between heartbeats.")] = _DEFAULT.heartbeat_s,
) -> int:
    """Check the settings, then work until told to stop; return the exit code."""
    try:
        settings = LearnerSettings(
            server=server,
            learner=learner or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}",
            key=os.environ.get("UPTURN_KEY"),
            run=run,
            once=once,
            device=device,
            gpu_memory=gpu_memory,
            threads=threads,
            work_dir=work_dir,
            max_row_tokens=max_row_tokens,
            activation_checkpointing=activation_checkpointing,
            compile=compile,
            liger=liger,
            rehearse=rehearse,
            heartbeat_s=heartbeat_s,
        )
    except ValidationError as error:
        wrong = (f"--{str(e['loc'][0]).replace('_', '-')}: {e['msg']}" for e in error.errors())
        raise typer.BadParameter("; ".join(wrong)) from None
    _require_torch()
    from learner.program import work

    return work(settings)


@app.command(
    help="Run `python -m learner run` as several processes that share one model and each batch.",
    short_help="Train with several processes, on one machine or several.",
    epilog="All other options are those of `python -m learner run` and apply to every process.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def launch(
    context: typer.Context,
    processes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of processes on this machine: one for each GPU.")
    ],
    machines: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of machines that run this same command.")
    ] = 1,
    meet: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where several machines meet: one machine's address and a free port there."
        ),
    ] = None,
    job: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Name that the machines share; needed if several learners meet at one address."
        ),
    ] = "upturn",
) -> int:
    """Check the options of all processes, then start them and wait for their end; return the exit code."""
    if machines > 1 and meet is None:
        raise typer.BadParameter("several machines need --meet HOST:PORT")
    group = typer.main.get_group(app)
    group.commands["run"].make_context(f"{PROGRAM} run", list(context.args))  # refuses what the processes would refuse
    _require_torch()
    from learner.parallel.launch import launch_processes

    return launch_processes(context.args, processes, machines, meet, job)


def _require_torch() -> None:
    if find_spec("torch") is None:
        print(f"the learner needs torch, which is not installed: {INSTALL}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
