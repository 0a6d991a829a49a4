"""`python -m server serve`: listen, show the first admin key if one was created, and serve until a signal."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import socket
import sys
from contextlib import AsyncExitStack, closing
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy.orm import Session

from server.app import create_app
from server.commands.database import make_data_dir
from server.commands.ready import Waiting, greeting
from server.recording.keys import first_admin_key
from server.settings import Settings
from server.store.database import Database
from server.wiring import lifecycle
from server.wiring.parts import Parts
from server.wiring.store import Store, open_store
from upturn.logs import log_failure, log_variables

ANSWERS_S = 5
"""Time for the last answers to leave after the drain, in seconds."""
COLLECTED_OBJECTS = 20_000
"""New objects until the next garbage collection. With Python's 700, a chat needs several, which find nothing (measured:
5 % of its CPU time)."""


def run(settings: Settings) -> int:
    """Serve; return the exit code."""
    _allow_many_connections()
    make_data_dir(settings)
    store = open_store(settings, lambda line: print(f"upturn: {line}", file=sys.stderr, flush=True))
    # asyncio disables Nagle's algorithm (40 ms per answer) only on sockets whose protocol is explicitly TCP.
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with closing(store), socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        return _serve(settings, store, listener)


def _serve(settings: Settings, store: Store, listener: socket.socket) -> int:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        flag = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        print(
            f"serve: cannot listen on {settings.host}:{settings.port}: {error.strerror}; choose another {flag}",
            file=sys.stderr,
        )
        return 1
    os.environ.update(log_variables(settings.log_level, settings.log_format))  # For learners and environment hosts.
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    print(f"upturn: {url} (data in {settings.data_dir.absolute()})", flush=True)
    if settings.keys_required:
        _show_first_admin_key(store.database)
    app = create_app(settings, lambda: url, store)
    _Server(app, partial(_show_ready, app, settings, url)).run(sockets=[listener])
    return 0


class _Server(uvicorn.Server):
    """Starts the application itself, and drains before it shuts down.

    uvicorn would log a failure to start as a traceback, ignore signals meanwhile, and stop listening before its
    handlers have finished.
    """

    def __init__(self, app: FastAPI, on_ready: Any) -> None:
        # Log lines go to the handlers of `upturn.logs`, and requests have a line of their own.
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=ANSWERS_S,
            )
        )
        self._app, self._on_ready = app, on_ready
        self._open = AsyncExitStack()
        self._starting: asyncio.Task[Any] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, then close the application."""
        asyncio.get_running_loop().set_exception_handler(lambda _, context: log_failure(context))
        with self.capture_signals():
            try:
                await self._serve(sockets)
            except asyncio.CancelledError:
                if not self.should_exit:
                    raise
            finally:
                await self._open.aclose()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen."""
        self._starting = asyncio.current_task()
        async with Waiting():
            await self._open.enter_async_context(self._app.router.lifespan_context(self._app))
        self._starting = None
        await super().startup(sockets)
        self._on_ready()

    async def main_loop(self) -> None:
        """Serve until a signal, then drain while the server still listens."""
        gc.collect()
        gc.freeze()  # Collections during large requests need not visit all that was imported (0.1 s, measured).
        gc.set_threshold(COLLECTED_OBJECTS, *gc.get_threshold()[1:])
        await super().main_loop()
        if (parts := self._parts) is not None:
            await lifecycle.drain(parts)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain at the first signal; end it at the second, in order. Stop at once while starting."""
        if (parts := self._parts) is not None:
            parts.draining.hurried = parts.draining.begun
            parts.draining.begun = True
        super().handle_exit(sig, frame)
        self.force_exit = False  # uvicorn would not close the application.
        if self._starting is not None:
            self._starting.get_loop().call_soon_threadsafe(self._starting.cancel)

    @property
    def _parts(self) -> Parts | None:
        """The application's parts, once it has started to build them."""
        parts: Parts | None = getattr(self._app.state, "parts", None)
        return parts


def _show_ready(app: FastAPI, settings: Settings, url: str) -> None:
    if settings.log_level in ("debug", "info"):
        parts = app.state.parts
        engine, name = parts.engine, type(parts.engine).__name__.removesuffix("Engine").lower()
        for everywhere in ("//0.0.0.0:", "//[::]:"):
            url = url.replace(everywhere, "//127.0.0.1:")
        print(greeting(settings, url, name, engine.precision, engine.context_tokens, parts.placement), flush=True)
    else:
        print(f"upturn: ready at {url}/v1", flush=True)


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
