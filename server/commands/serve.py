"""`python -m server serve`: listen, show the first admin key if one was created, and serve until a signal."""

from __future__ import annotations

import socket
import sys

import uvicorn
from sqlalchemy.orm import Session

from server.app import create_app
from server.recording.keys import first_admin_key
from server.settings import Settings
from server.store.database import Database
from server.wiring.store import Store, open_store


def run(settings: Settings) -> int:
    """Serve; return the exit code."""
    _allow_many_connections()
    store = open_store(settings, lambda line: print(f"upturn: {line}", file=sys.stderr, flush=True))
    try:
        return _serve(settings, store)
    finally:
        store.close()


def _serve(settings: Settings, store: Store) -> int:
    # asyncio disables Nagle's algorithm (40 ms per answer) only on sockets whose protocol is explicitly TCP.
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
        uvicorn.Config(create_app(settings, lambda: url, store), log_level="warning", timeout_graceful_shutdown=5)
    )
    print(f"upturn: {url} (data in {settings.data_dir.absolute()})", flush=True)
    if settings.keys_required:
        _show_first_admin_key(store.database)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as permitted: each connection is one, and a shell's usual 1024 are few."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)) if hard > 0 else soft, hard))


def _show_first_admin_key(database: Database) -> None:
    with Session(database.writer) as session, session.begin():
        made = first_admin_key(session)
    if made is not None:  # After the commit: a key that was shown is valid.
        print(f"upturn: the admin key, shown only this once: {made.key}", flush=True)
