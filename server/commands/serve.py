"""`python -m server serve`: listen, show the first admin key if one was created, and serve until a signal."""

from __future__ import annotations

import gc
import socket
import sys
from types import FrameType

import uvicorn
from sqlalchemy.orm import Session

import migrations
from server.app import create_app
from server.recording.keys import first_admin_key
from server.settings import Settings
from server.store.database import Database
from server.wiring import lifecycle
from server.wiring.parts import Parts

ANSWERS_S = 5
"""Time for the last answers to leave after the drain, in seconds."""


class Server(uvicorn.Server):
    """Drains before it shuts down: uvicorn itself would stop listening at once, and only then wait for its handlers."""

    async def main_loop(self) -> None:
        """Serve until a signal, then drain while the server still listens."""
        gc.collect()
        gc.freeze()  # Collections during large requests need not visit all that was imported (0.1 s, measured).
        await super().main_loop()
        if (parts := self._parts) is not None:
            await lifecycle.drain(parts)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain at the first signal; end it at the second, in order, whichever signal it is."""
        if (parts := self._parts) is not None:
            parts.draining.hurried = parts.draining.begun
            parts.draining.begun = True
        super().handle_exit(sig, frame)
        self.force_exit = False  # uvicorn would not close the application.

    @property
    def _parts(self) -> Parts | None:
        """The application's parts, once it has started to build them."""
        parts: Parts | None = getattr(self.config.app.state, "parts", None)  # type: ignore[union-attr]
        return parts


def run(settings: Settings) -> int:
    """Serve; return the exit code."""
    _allow_many_connections()
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
    app = create_app(settings, lambda: url)
    server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=ANSWERS_S))
    print(f"upturn: {url} (data in {settings.data_dir.absolute()})", flush=True)
    if settings.keys_required:
        _show_first_admin_key(settings)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as permitted: each connection is one, and a shell's usual 1024 are few."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)) if hard > 0 else soft, hard))


def _show_first_admin_key(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.resolved_database_url)
    try:
        migrations.upgrade(database.writer)
        with Session(database.writer) as session, session.begin():
            made = first_admin_key(session)
    finally:
        database.close()
    if made is not None:  # After the commit: a key that was shown is valid.
        print(f"upturn: the admin key, shown only this once: {made.key}", flush=True)
