"""How often the automatic decisions are wrong or right, in simulations with the project's own rules.

    .venv/bin/python benchmarks/decisions.py gate [--quick]
    .venv/bin/python benchmarks/decisions.py auditor [--quick]
    .venv/bin/python benchmarks/decisions.py watch [--quick] [--repetitions 400]
    .venv/bin/python benchmarks/decisions.py canary [--quick] [--repetitions 400]

`gate`: promotions of a candidate. `auditor`: objections to honest candidates (its level), and to candidates that found
a loophole (its power). `watch`: rollbacks of a promoted version; `canary`: rejections of a candidate; both in percent,
with binomial standard errors, by the true fall of its success. At a fall of 0 each is a false decision, and so it is at
0.05, which `watch.min_drop` tolerates. One core, no server, no model.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "clients" / "python")]

import numpy as np

from benchmarks.support import audit_decisions, gate_decisions
from benchmarks.support.watch_cases import canary_cases, watch_cases
from clients.demo.machine import machine

REPORTS = {"gate": gate_decisions.report, "auditor": audit_decisions.report}
CASES = {"watch": watch_cases, "canary": canary_cases}


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="decision", required=True)
    for name in REPORTS:
        command = commands.add_parser(name)
        command.add_argument("--quick", action="store_true", help="fewer simulations")
    for name in CASES:
        command = commands.add_parser(name)
        command.add_argument("--repetitions", type=int, default=400)
        command.add_argument("--falls", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
        command.add_argument("--rates", type=float, nargs="+", default=[10.0, 30.0, 100.0, 500.0])
        command.add_argument("--quick", action="store_true", help="10 repetitions, falls of 0 and 0.2")
    arguments = parser.parse_args()
    if arguments.decision in REPORTS:
        REPORTS[arguments.decision](quick=arguments.quick)
    else:
        _report(arguments)


def _report(arguments: argparse.Namespace) -> None:
    """Print a table of decisions on live rewards by case and fall, and the same as JSON."""
    if arguments.quick:
        arguments.repetitions, arguments.falls = 10, [0.0, 0.2]
    found = []
    for case, decide in CASES[arguments.decision](arguments.rates):
        shares = {
            fall: sum(decide(rng, drop=fall) for _ in range(arguments.repetitions)) / arguments.repetitions
            for fall in arguments.falls
            for rng in [np.random.default_rng(1)]
        }
        if not found:
            print("| " + " | ".join([*case, *(f"fall {fall:g}" for fall in shares)]) + " |")
            print("|---" * (len(case) + len(shares)) + "|")
        errors = {fall: (share * (1 - share) / arguments.repetitions) ** 0.5 for fall, share in shares.items()}
        cells = [f"{100 * share:.1f} ± {100 * errors[fall]:.1f}" for fall, share in shares.items()]
        print("| " + " | ".join([*case.values(), *cells]) + " |", flush=True)
        found.append({**case, "decided": shares})
    about = {"machine": machine(), "decision": arguments.decision, "repetitions": arguments.repetitions}
    print(json.dumps({**about, "cases": found}))


if __name__ == "__main__":
    main()
