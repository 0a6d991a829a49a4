"""Which adapters the engine holds: versions with a role, versions that are answering, and a few loaded on demand.

A version on disk is loaded when a call names it (`name@N`) or continues a conversation that began on it. It is unloaded
after a time without use, or when another version needs its place. A version that is being published is loaded before it
has a role, so every unload here holds the lock of `Serving`.
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
from server.versions import rows
from server.versions.routing import Pointers, named_version
from server.versions.settings import VersionSettings

log = logging.getLogger("upturn.residency")
GRACE_S = 5.0
"""Time allowed from the request for a version to the first token of its answer; it is not unloaded earlier."""


class Residency:
    """Loads a bounded number of adapters on demand."""

    def __init__(
        self,
        settings: VersionSettings,
        *,
        database: Database,
        engine: Engine,
        pointers: Pointers,
        lock: asyncio.Lock,
        load: Callable[[int], Awaitable[None]],
        held: Callable[[], set[int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lock` guards every load and unload, `load` loads a version, `held` returns the versions in use."""
        self._settings = settings
        self._database = database
        self._engine = engine
        self._pointers = pointers
        self._lock = lock
        self._load = load
        self._held = held
        self.clock = clock
        self._requested_at: dict[int, float] = {}
        """When a call last named each version, or continued a conversation that began on it."""
        self._unloading: set[int] = set()
        """Versions that are being unloaded."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start unloading unused adapters in the background."""
        if not self._pointers.shared:
            self._task = asyncio.create_task(self._unload_unused())

    async def close(self) -> None:
        """Stop the background task."""
        await background.end(self._task)

    async def load_on_demand(self, model: str | None, began_on: int | None = None) -> None:
        """Load the version that a call needs if its weights are on disk.

        A version whose weights are deleted, or that one engine of full weights does not hold, is left to
        `Pointers.resolve` to refuse.

        Args:
            model: the call's model; N of `name@N` is the version needed.
            began_on: the version that the call's episode began on, needed if `model` has no `@`.

        Raises:
            Unavailable: the maximum number of versions is loaded, and all of them are in use.
        """
        name, at, _ = (model or self._pointers.name).partition("@")
        version = named_version(model) if at else began_on
        if name != self._pointers.name or version is None or self._pointers.shared or version >= 2**31:
            return
        if version not in self._engine.versions or version in self._unloading:
            async with self._lock:
                try:
                    await asyncio.to_thread(self._check_on_disk, version)
                except NotFound:
                    return
                await self._make_room(version)
                await self._load(version)
        self._requested_at[version] = self.clock()

    async def tidy(self) -> None:
        """Unload adapters without a role that have not been used for `idle_s`. The caller holds the lock."""
        if self._pointers.shared:
            return
        for version in self._engine.versions - self._needed(self._settings.idle_s):
            if version not in self._needed(self._settings.idle_s):  # A call may have requested it in the meantime.
                await self._unload(version)

    async def _unload(self, version: int) -> None:
        self._requested_at.pop(version, None)
        self._unloading.add(version)
        try:
            await self._engine.unload(version)
        finally:
            self._unloading.discard(version)

    async def _make_room(self, version: int) -> None:
        """If the limit is reached without `version`, unload the version on demand whose last request is oldest.

        Raises:
            Unavailable: all of them are in use.
        """
        on_demand = (self._engine.versions & self._requested_at.keys()) - self._roles() - {version}
        if len(on_demand) < self._settings.on_demand:
            return
        free = on_demand - self._needed(GRACE_S)
        if not free:
            raise Unavailable(
                f"all {len(on_demand)} versions that may be loaded on demand (versions.on_demand) are in use",
                code="versions_busy",
            )
        await self._unload(min(free, key=self._requested_at.__getitem__))

    def _roles(self) -> set[int]:
        canary = set() if self._pointers.canary is None else {self._pointers.canary}
        return {0, self._pointers.champion, self._pointers.head} | canary

    def _needed(self, idle_s: float) -> set[int]:
        since = self.clock() - idle_s
        return self._roles() | self._held() | {version for version, at in self._requested_at.items() if at > since}

    def _check_on_disk(self, version: int) -> None:
        with self._database.read() as session:
            rows.ready(session, version)

    async def _unload_unused(self) -> None:
        while True:
            await asyncio.sleep(self._settings.idle_s / 4)
            try:
                async with self._lock:
                    await self.tidy()
            except (*BROKEN, UpturnError) as error:
                log.error("cannot unload unused adapters, retrying later: %s", error)
