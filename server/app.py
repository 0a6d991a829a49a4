"""Puts the server together. It only wires: each part is described in its own module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from server.api import (
    campaigns,
    environments,
    episodes,
    keys,
    leaderboard,
    notifications,
    operations,
    pages,
    plays,
    policies,
    rehearsals,
    rewards,
    runs,
    schedule,
    served,
    shadow,
    stats,
    steps,
)
from server.api.access.authentication import Authentication, own_episode
from server.api.access.body_limit import BodyLimit
from server.api.access.errors import ErrorAnswers
from server.api.access.openapi import document
from server.api.access.request_log import RequestLog
from server.api.access.sites import SiteRules, Sites, json_only
from server.api.dialects import registry
from server.api.people import demonstrations
from server.api.served import retrieve
from server.api.services import provide
from server.dashboard.site import ROUTERS as PAGES
from server.settings import Settings
from server.wiring import lifecycle
from server.wiring.parts import build
from server.wiring.services import services
from server.wiring.store import Store, open_store
from upturn import __version__

ROUTERS = (
    environments,
    episodes,
    steps,
    rewards,
    demonstrations,
    plays,
    keys,
    runs,
    campaigns,
    schedule,
    rehearsals,
    policies,
    leaderboard,
    shadow,
    notifications,
    operations,
    stats,
    retrieve,
    pages,
)
"""Modules with a `router`; each route declares the scope it needs."""


def create_app(settings: Settings, own_url: Callable[[], str] | None = None, store: Store | None = None) -> FastAPI:
    """Return the application; starting it migrates the database and starts the engine.

    Args:
        settings: the settings.
        own_url: returns, once the server listens, the URL at which the learner finds it. Without it no learner starts.
        store: the opened store, which the application closes at its end. Default: it is opened at the start.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened = await asyncio.to_thread(open_store, settings) if store is None else store
        try:
            parts = await build(settings, opened, learns=own_url is not None)
        except BaseException:
            opened.close()
            raise
        app.state.parts = parts  # For tests and debugging; routes get services.
        provide(app, services(parts))
        try:
            await lifecycle.start(parts, own_url)
            yield
        finally:
            await lifecycle.close(parts)

    app = FastAPI(
        title="Upturn",
        version=__version__,
        lifespan=lifespan,
        dependencies=[json_only],
        docs_url=None,
        redoc_url=None,
    )
    dialects = registry.load()
    errors = ErrorAnswers(partial(registry.error_form, dialects))
    errors.install(app)
    document(app, errors.form_of)
    app.add_middleware(BodyLimit, limit_bytes=settings.max_body_bytes, errors=errors)
    # Further out, so applied earlier: reject unauthorized requests before reading the body.
    app.add_middleware(Authentication, errors=errors)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
            allow_private_network=True,
        )
    app.add_middleware(
        Sites,
        rules=SiteRules(
            settings.keys_required, settings.host, tuple(settings.allowed_hosts), tuple(settings.allowed_origins)
        ),
        errors=errors,
    )
    app.add_middleware(RequestLog, errors=errors)  # Outermost: it also logs what the others refuse.
    for dialect in dialects:
        app.include_router(dialect.router, dependencies=[own_episode])
    for resource in ROUTERS:
        app.include_router(resource.router)
    for router in (*served.routers, *PAGES):
        app.include_router(router)
    return app
