"""`python -m server COMMAND`: finds the command's module and runs it; each is loaded only when it is asked for."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

from pydantic import ValidationError

from server.section import SettingsError

COMMANDS = {
    "serve": ("serve", "start the server (it migrates the database first)"),
    "migrate": ("migrate", "bring the database to the newest revision and stop"),
    "keys": ("keys", "create, list and revoke API keys"),
    "export": ("export", "write recorded episodes to a file"),
    "import": ("import_", "take exported episodes into this database"),
    "doctor": ("doctor", "check a model before anyone trains it"),
}
"""Module in `server/commands/`, and what it does, by command."""
USAGE = """usage: python -m server COMMAND [--config FILE] [settings]

commands:
{}

Settings come from a TOML file (--config), the environment (UPTURN_...), and flags, the later one winning.
`python -m server COMMAND --help` lists those of a command.""".format(
    "\n".join(f"  {name:9} {does}" for name, (_, does) in COMMANDS.items())
)


def main(args: list[str]) -> int:
    """Run a command; return the exit code."""
    if not args or args[0] not in COMMANDS:
        asked = args[:1] in (["-h"], ["--help"])
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("alembic", "apscheduler"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    module = import_module(f"server.commands.{COMMANDS[args[0]][0]}")
    try:
        return int(module.run(args[1:]))
    except (ValidationError, SettingsError) as error:
        print(f"settings: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
