"""Whether a server that is left alone is better after thirty nights, and is never fooled on the way.

    .venv/bin/python benchmarks/thirty_nights.py [--quick] [--engine vllm|local] [--directory DIR]

Thirty nights on a clock that the benchmark sets, with the unmodified `python -m server serve`, its learner, and a tiny
model. Users talk over the plain OpenAI API and reward hours later, with a bias. On some nights the server is killed,
the clock is set back, the game has a loophole or is broken, or bad weights are published by hand
(`support/thirty_nights/plan.py`). Each morning the champion plays tasks that no decision sees. Every number of the
table is read from the database or counted by the users. With `--directory`, a benchmark that was stopped or killed
continues in the phase of the night in which it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "clients" / "python")]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # Of server, engine, and learner: on two cores more threads only wait.

from benchmarks.support.thirty_nights import game
from benchmarks.support.thirty_nights.clock import Clock
from benchmarks.support.thirty_nights.nights import DAY_S, Nights
from benchmarks.support.thirty_nights.plan import FULL, QUICK
from benchmarks.support.thirty_nights.record import Record
from benchmarks.support.thirty_nights.served import Served
from benchmarks.support.thirty_nights.state import State
from benchmarks.support.thirty_nights.table import header, line, plot, summary
from benchmarks.support.thirty_nights.users import HOUR_S
from clients.demo.machine import machine
from tests.support.tiny_model import make_tiny_model
from upturn.client import Client


def main() -> int:
    """Live through the nights, print, and return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.nights} nights, at most 10 minutes")
    parser.add_argument("--engine", choices=["vllm", "local"], default="vllm")
    parser.add_argument("--directory", type=Path, help="state, data, and plot; an unfinished one is continued")
    arguments = parser.parse_args()
    if arguments.directory is not None:
        arguments.directory.mkdir(parents=True, exist_ok=True)
        return live(arguments.directory.absolute(), arguments.engine, arguments.quick)
    with tempfile.TemporaryDirectory(prefix="upturn-thirty-nights-") as name:
        return live(Path(name), arguments.engine, arguments.quick)


def live(directory: Path, engine: str, quick: bool) -> int:
    """Live through all nights that are left."""
    file = directory / "state.json"
    midnight = time.time() // DAY_S * DAY_S
    after_one = midnight + 2 * HOUR_S  # Too late for a run in the night before the first measurement.
    state = State.load(file) if file.exists() else State(engine, quick, midnight, after_one)
    if (state.engine, state.quick) != (engine, quick):
        raise SystemExit(f"{directory} holds nights with --engine {state.engine}{' --quick' * state.quick}")
    plan = QUICK if quick else FULL
    clock = Clock(directory / "clock")
    if file.exists():  # A phase that was interrupted: leases and rewards must not lie in the future.
        state.clock = max(state.clock, Record(directory / "data" / "upturn.db").newest())
    clock.set(state.clock)
    game.set_state(directory / "game", "normal")
    os.environ[game.STATE] = str(directory / "game")
    if not (directory / "model").exists():
        make_tiny_model(directory / "model.new").rename(directory / "model")
    title = f"{plan.nights} nights, engine {engine}, {machine()}"
    print(title, header(), *map(line, state.rows), sep="\n", flush=True)
    with (
        Served(directory / "data", directory / "clock", plan.flags(directory / "model", engine)) as server,
        Client(server.url) as client,
    ):
        nights = Nights(plan, state, directory, server, client, clock)
        while state.night <= plan.nights:
            began, known = time.monotonic(), len(state.rows)
            nights.live_one_phase()
            state.seconds += time.monotonic() - began
            state.save(file)
            if len(state.rows) > known:
                print(line(state.rows[-1]), flush=True)
                plot(state.rows, directory / "thirty_nights.png", title)
    found = summary(state.rows)
    about = {"machine": machine(), "engine": engine, "quick": quick, "seconds": state.seconds}
    for promise, kept in found["promises"].items():
        print(f"{'kept  ' if kept else 'BROKEN'}  {promise}")
    print(json.dumps({**about, **found}))
    return 0 if all(found["promises"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
