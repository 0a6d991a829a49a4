"""Which adapters the engine holds: those with a role, those that answer, and a few that somebody asked for by number.

A kept version that a call names (`name@N`), or that a conversation began on, is loaded when it is asked for, and
unloaded when nobody has asked for it for a while, or when another one needs its place. Between its load and its role a
version has neither, so everything here waits for the swap's lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from server import background
from server.engines.protocol import Engine
from server.errors import NotFound, Unavailable, UpturnError
from server.store.database import BROKEN, Database
from server.versions.routing import Pointers, named_version
from server.versions.rows import ready_version
from server.versions.settings import VersionSettings

log = logging.getLogger("upturn.residency")
GRACE_S = 5.0
"""Between asking for a version and the first token of its answer; it is not unloaded so soon."""


class Residency:
    """Loads adapters on demand, a bounded number of them."""

    def __init__(
        self,
        settings: VersionSettings,
        *,
        database: Database,
        engine: Engine,
        pointers: Pointers,
        swapping: asyncio.Lock,
        load: Callable[[int], Awaitable[None]],
        held: Callable[[], set[int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._engine = engine
        self._pointers = pointers
        self._swapping = swapping
        self._load = load
        self._held = held
        self.clock = clock
        self._asked: dict[int, float] = {}
        """When each version was last asked for by number, or by a conversation that began on it."""
        self._leaving: set[int] = set()
        """What is being unloaded."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for adapters that nobody uses."""
        if not self._pointers.shared:
            self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Stop looking."""
        await background.end(self._task)

    async def bring(self, model: str | None, began_on: int | None = None) -> None:
        """Load the version that a call needs, where it is kept: that of `name@N`, else the one it began on.

        What is not kept, and what one engine of full weights cannot hold, is left to `Pointers.resolve` to refuse.

        Raises:
            Unavailable: as many are loaded as may be, and all of them are in use.
        """
        name, at, _ = (model or self._pointers.name).partition("@")
        version = named_version(model) if at else began_on
        if name != self._pointers.name or version is None or self._pointers.shared or version >= 2**31:
            return
        if version not in self._engine.versions or version in self._leaving:
            async with self._swapping:
                try:
                    await asyncio.to_thread(self._must_be_kept, version)
                except NotFound:
                    return
                await self._make_room(version)
                await self._load(version)
        self._asked[version] = self.clock()

    async def tidy(self) -> None:
        """Unload the adapters that have no role and that nobody has used for a while. The caller has the lock."""
        if self._pointers.shared:
            return
        for version in self._engine.versions - self._needed(self._settings.idle_s):
            if version not in self._needed(self._settings.idle_s):  # It may have been asked for meanwhile.
                await self._unload(version)

    async def _unload(self, version: int) -> None:
        self._asked.pop(version, None)
        self._leaving.add(version)
        try:
            await self._engine.unload(version)
        finally:
            self._leaving.discard(version)

    async def _make_room(self, version: int) -> None:
        """Unload the one that was asked for longest ago, where there are as many as may be beside a version.

        Raises:
            Unavailable: all of them are in use.
        """
        on_demand = (self._engine.versions & self._asked.keys()) - self._roles() - {version}
        if len(on_demand) < self._settings.on_demand:
            return
        free = on_demand - self._needed(GRACE_S)
        if not free:
            raise Unavailable(
                f"{len(on_demand)} versions are loaded on demand, as many as may be, and all are in use",
                code="versions_busy",
            )
        await self._unload(min(free, key=self._asked.__getitem__))

    def _roles(self) -> set[int]:
        canary = set() if self._pointers.canary is None else {self._pointers.canary}
        return {0, self._pointers.champion, self._pointers.head} | canary

    def _needed(self, idle_s: float) -> set[int]:
        since = self.clock() - idle_s
        return self._roles() | self._held() | {version for version, at in self._asked.items() if at > since}

    def _must_be_kept(self, version: int) -> None:
        with self._database.read() as session:
            ready_version(session, version)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._settings.idle_s / 4)
            try:
                async with self._swapping:
                    await self.tidy()
            except (*BROKEN, UpturnError) as error:
                log.error("adapters cannot be unloaded now: %s", error)
