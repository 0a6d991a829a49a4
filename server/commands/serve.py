"""`python -m server serve`: listen, show the first admin key where one was made, and serve until a signal."""

from __future__ import annotations

import socket
import sys

import uvicorn
from sqlalchemy.orm import Session

import migrations
from server.app import create_app
from server.recording.keys import first_admin_key
from server.settings import Settings
from server.store.database import Database


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    settings = Settings.load(arguments)
    _allow_many_connections()
    # The protocol is named since asyncio turns Nagle's delay off (40 ms an answer) only where it sees TCP.
    listener = socket.socket(
        socket.AF_INET6 if ":" in settings.host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        print(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another --port",
            file=sys.stderr,
        )
        return 1
    url = f"http://{settings.host}:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings, lambda: url), log_level="warning", timeout_graceful_shutdown=5)
    )
    print(f"upturn: {url} (data in {settings.data_dir.absolute()})", flush=True)
    if settings.keys_required:
        _show_first_admin_key(settings)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _allow_many_connections() -> None:
    """Take all the open files that the system grants: each connection is one, and a shell's usual 1024 are few."""
    if sys.platform != "win32":
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, min(most, 65_536)) if most > 0 else now, most))


def _show_first_admin_key(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.resolved_database_url)
    try:
        migrations.upgrade(database.writer)
        with Session(database.writer) as session, session.begin():
            made = first_admin_key(session)
    finally:
        database.close()
    if made is not None:  # Only once it is committed: a key that was shown works.
        print(f"upturn: the admin key, shown only this once: {made.key}", flush=True)
