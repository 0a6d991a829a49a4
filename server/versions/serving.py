"""The versions that the engine serves: what publishing (`publish.py`) and champions (`champion.py`) share.

`Serving` holds the engine, the pointers, and the lock under which one change at a time is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session

from server.engines.protocol import Engine, Weights
from server.errors import BadRequest, UpturnError
from server.store.database import Database
from server.store.writer import Writer
from server.versions import disk, ledger, rows
from server.versions.residency import Residency
from server.versions.routing import Pointers
from server.versions.settings import VersionSettings
from upturn.wire import PolicyView

log = logging.getLogger("upturn.versions")
T = TypeVar("T")


class Serving:
    """Loads versions and moves the pointers. Every change of either holds `lock`."""

    def __init__(
        self,
        settings: VersionSettings,
        *,
        database: Database,
        writer: Writer,
        engine: Engine,
        pointers: Pointers,
        base: Path,
        root: Path,
        open_versions: Callable[[], set[int]],
        held_versions: Callable[[], set[int]],
    ) -> None:
        """Connect the parts; nothing is loaded before `start`.

        Args:
            settings: which weights stay on disk, and which stay loaded.
            database: read for rows and the ledger.
            writer: writes them.
            engine: serves the versions.
            pointers: champion, head and canary, moved here alone.
            base: directory of the base model.
            root: directory under which published weights lie.
            open_versions: versions of open episodes; their weights stay on disk.
            held_versions: versions that are answering or about to; they stay loaded.
        """
        self.database = database
        self.writer = writer
        self.engine = engine
        self.pointers = pointers
        self.root = root.resolve()
        self.lock = asyncio.Lock()
        self.residency = Residency(
            settings,
            database=database,
            engine=engine,
            pointers=pointers,
            lock=self.lock,
            load=self.ensure_loaded,
            held=held_versions,
        )
        self._settings = settings
        self._base = Weights(0, "base", base)
        self._open_versions = open_versions

    async def start(self) -> None:
        """Register the base model at the first start, and start the engine on the recorded champion and head."""
        await self.writer.write(lambda session: rows.register_base(session, self.pointers.name, self._base.path))
        await self.writer.write(rows.fail_interrupted)
        champion, head = await self.read(rows.champion_and_head)
        self.pointers.champion, self.pointers.head = champion.version, champion.version
        await self.engine.start(self._base, champion)
        if not self.pointers.shared and head.version != champion.version:
            await self.engine.load(head)
            self.pointers.head = head.version
        await self._resume_canary()
        leftover = await self.read(lambda session: disk.leftover(session, self.root))
        await asyncio.to_thread(disk.delete, leftover)

    async def ensure_loaded(self, version: int) -> None:
        """Make the engine able to answer with a version. The caller holds the lock.

        Raises:
            NotFound: the version does not exist, or its weights have been deleted, so a restart could not load it.
            EngineError: loading failed.
        """
        weights = await self.read(lambda session: rows.weights(session, version))
        if version not in self.engine.versions:
            await self.engine.load(weights)

    async def record_change(self, champion: int, record: Callable[[Session], T]) -> T:
        """Load a version that becomes the champion, then record it. The caller holds the lock and moves the pointers.

        If the record cannot be written, an engine of one version gets its champion back.

        Raises:
            NotFound, EngineError: as `ensure_loaded`; nothing is recorded.
        """
        await self.ensure_loaded(champion)
        try:
            return await self.writer.write(record)
        except Exception:
            if self.pointers.shared:
                await self.ensure_loaded(self.pointers.champion)
            raise

    async def follow_record(self) -> None:
        """Move the pointers to a newer recorded head: of a write that was reported as failed, and was done."""
        _, head = await self.read(rows.champion_and_head)
        if head.version > self.pointers.head:
            await self.ensure_loaded(head.version)
            self.pointers.head = head.version
            if self.pointers.shared:
                self.pointers.champion = head.version

    def point(self, champion: int, undone: int | None = None) -> None:
        """Give all live traffic to a champion; if the head is `undone`, the champion replaces it too."""
        self.pointers.champion, self.pointers.canary = champion, None
        if self.pointers.shared or self.pointers.head == undone:
            self.pointers.head = champion

    async def tidy(self) -> None:
        """Unload unused adapters, and delete weights that nothing needs. The caller holds the lock."""
        await self.residency.tidy()
        in_use = self.engine.versions | {self.pointers.champion, self.pointers.head} | self._open_versions()

        def retire(session: Session) -> list[Path]:
            unneeded = disk.unneeded(session, self._settings, in_use)
            paths = [rows.weights(session, version).path for version in unneeded]
            disk.retire(session, unneeded)
            return paths

        await asyncio.to_thread(disk.delete, await self.writer.write(retire))

    def check_work_dir(self, path: str) -> None:
        """Check that this server can read the versions that a learner writes. Touches the disk.

        Raises:
            BadRequest: the directory is not under the data directory, or the server does not see it.
        """
        try:
            directory = Path(path).resolve()
            visible = directory.is_dir()
        except (OSError, ValueError) as error:
            raise BadRequest(f"{path!r} is not a directory: {error}", param="work_dir", code="bad_path") from error
        if not Path(path).is_absolute() or not directory.is_relative_to(self.root):
            raise BadRequest(
                f"this learner writes to {path}, and the server reads versions under {self.root} only: start the "
                f"learner with --work-dir {self.root / 'learner'}",
                param="work_dir",
                code="bad_path",
            )
        if not visible:
            raise BadRequest(
                f"the server does not see {path}: --work-dir must be storage that learner and server share under the "
                "same path",
                param="work_dir",
                code="bad_path",
            )

    def views(self, only: int | None = None) -> list[PolicyView]:
        """Return the ready and retired versions, newest first. Reads the database: not for the event loop."""
        with self.database.read() as session:
            return [rows.view(row, self.pointers, self.engine) for row in rows.list_served(session, only)]

    async def view(self, version: int) -> PolicyView:
        """Return a version that serves or has served."""
        return (await asyncio.to_thread(self.views, version))[0]

    async def read(self, query: Callable[[Session], T]) -> T:
        """Run a query in a thread."""

        def run() -> T:
            with self.database.read() as session:
                return query(session)

        return await asyncio.to_thread(run)

    async def _resume_canary(self) -> None:
        """After a restart: continue the recorded canary if its weights can be loaded."""
        row = await self.read(ledger.canary)
        if row is None or row.from_version is None or self.pointers.shared:
            return
        try:
            await self.ensure_loaded(row.from_version)
        except UpturnError as error:
            log.error("the canary, version %d, cannot be loaded: %s", row.from_version, error)
        else:
            self.pointers.canary = row.from_version
