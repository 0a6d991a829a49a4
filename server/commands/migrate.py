"""`python -m server migrate`: bring the database to the newest revision and stop."""

from __future__ import annotations

import argparse

from server.commands.database import add_flags, open_database


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m server migrate",
        allow_abbrev=False,
        description="Brings the database to the newest revision; serving does so too.",
    )
    add_flags(parser)
    database = open_database(parser.parse_args(arguments))
    database.close()
    print(f"{database.url.split('@')[-1]} is at the newest revision")
    return 0
