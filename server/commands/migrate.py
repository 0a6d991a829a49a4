"""`python -m server migrate`: bring the database to the newest revision."""

from __future__ import annotations

from server.commands.database import open_database
from server.settings import Settings


def run(settings: Settings) -> int:
    """Migrate; return the exit code."""
    database = open_database(settings)
    database.close()
    print(f"{database.url.split('@')[-1]} is at the newest revision")
    return 0
