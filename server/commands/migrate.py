"""`python -m server migrate`: bring the database to the newest revision."""

from __future__ import annotations

import argparse

from server.commands.database import add_flags, open_database


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server migrate",
        allow_abbrev=False,
        description="Bring the database to the newest revision. `serve` does so at its start.",
    )
    add_flags(parser)
    database = open_database(parser.parse_args(arguments))
    database.close()
    print(f"{database.url.split('@')[-1]} is at the newest revision")
    return 0
