"""`python -m server serve | migrate`: start the server, or only bring the database up to date."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys

import uvicorn
from pydantic import ValidationError

import migrations
from server.app import create_app
from server.settings import Settings
from server.store.database import Database

USAGE = """usage: python -m server COMMAND [--config FILE] [settings]

commands:
  serve     start the server (it migrates the database first)
  migrate   bring the database to the newest revision and stop

Settings come from a TOML file (--config), the environment (UPTURN_...), and flags, the later one winning.
`python -m server serve --help` lists them."""


def serve(settings: Settings) -> int:
    """Serve until a signal; return the exit code."""
    if not _is_loopback(settings.host):
        logging.getLogger("upturn").warning(
            "listening on %s without API keys: whoever reaches this address can use and train the model", settings.host)
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        print(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another --port",
              file=sys.stderr)
        return 1
    url = f"http://{settings.host}:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(create_app(settings, lambda: url), log_level="warning",
                                           timeout_graceful_shutdown=5))
    print(f"upturn: {url} (data in {settings.data_dir.absolute()})", flush=True)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def main(args: list[str]) -> int:
    """Run a command; return the exit code."""
    if not args or args[0] not in ("serve", "migrate"):
        print(USAGE, file=sys.stdout if args[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if args[:1] in (["-h"], ["--help"]) else 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("alembic", "apscheduler"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = Settings.load(args[1:], program=f"python -m server {args[0]}")
    except (ValidationError, ValueError) as error:
        print(f"settings: {error}", file=sys.stderr)
        return 2
    if args[0] == "serve":
        return serve(settings)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.resolved_database_url)
    migrations.upgrade(database.writer)
    database.close()
    print(f"{database.url.split('@')[-1]} is at the newest revision")
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
