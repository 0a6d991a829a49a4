"""Levels and power of the decisions that nobody watches, by simulation with the server's own functions.

.venv/bin/python benchmarks/decisions.py gate [--quick]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "clients" / "python")]

from benchmarks.support import gate_decisions

SUBJECTS = {"gate": gate_decisions.report}


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", choices=SUBJECTS, help="which decision")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the simulations")
    arguments = parser.parse_args()
    SUBJECTS[arguments.subject](quick=arguments.quick)


if __name__ == "__main__":
    main()
