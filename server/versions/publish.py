"""Publishes a new version: verifies its files, loads it, checks it, then lets it serve (steps 11 and 12).

The order keeps the promise that a crash at any point leaves a good version serving: a version's row says `ready` only
after the engine has loaded it and its logprobs of the probe agree with the learner's own, and the pointers move only
after the row. A start marks every version as failed that was still loading.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.engines.protocol import Weights
from server.errors import BadRequest, Unavailable, UpturnError
from server.store.tables import PolicyVersionRow, RunRow
from server.versions import ledger, rows
from server.versions.check import Check, check_version
from server.versions.routing import TRIAL
from server.versions.serving import Serving
from upturn.manifest import ManifestError, verify_manifest
from upturn.wire import PolicyPublish, PolicyView, Probe

log = logging.getLogger("upturn.versions")


class Publisher:
    """Takes new versions into service."""

    def __init__(self, serving: Serving, validate: Callable[[Path, str], None]) -> None:
        """Connect the parts.

        Args:
            serving: loads the versions and holds the lock.
            validate: raises BadRequest unless a directory holds weights of this model, of a kind (full or adapter).
        """
        self._serving = serving
        self._engine = serving.engine
        self._pointers = serving.pointers
        self._validate = validate

    async def publish(self, request: PolicyPublish) -> PolicyView:
        """Take a new version into service; publishing the same manifest again returns the same version.

        Raises:
            BadRequest: the files differ from the manifest, or are not weights of this model.
            Conflict: the engine's logprobs disagree with the learner's; the previous version keeps serving.
            EngineError: loading failed; the engine restarts on the previous version.
        """
        began = time.perf_counter()
        async with self._serving.lock:
            published = await asyncio.to_thread(self._find, request.manifest_sha256)
            if published is not None:
                await self._serving.follow_record()
                return await self._serving.view(published.version)
            path = Path(request.path)
            kind = await asyncio.to_thread(self._verify, path, request.manifest_sha256)
            previous = self._pointers.head
            version = await self._register(request, kind, parent=previous)
            try:
                await self._engine.load(Weights(version, kind, path))  # type: ignore[arg-type]
                check = await check_version(self._engine, version, request.probe)
            except UpturnError as error:
                await self._refuse(version, previous, error.message)
                raise
            swap_s = time.perf_counter() - began
            await self._record(version, previous, check, swap_s, request.run_id)
            self._pointers.head = version
            if self._pointers.shared:
                self._pointers.champion = version
            log.info(
                "version %d serves after %.2f s (check: mean %.4f, max %.4f nats)",
                version,
                swap_s,
                check.mean,
                check.max,
            )
            await self._serving.tidy()
            return await self._serving.view(version)

    async def try_adapter(self, path: Path, manifest_sha256: str, probe: Probe) -> Check:
        """Load an adapter, check it and unload it, as `publish` does, without making it a version.

        Raises:
            BadRequest, Conflict, EngineError: as `publish`; what was served keeps serving.
        """
        async with self._serving.lock:
            kind = await asyncio.to_thread(self._verify, path, manifest_sha256)
            try:
                await self._engine.load(Weights(TRIAL, kind, path))  # type: ignore[arg-type]
                return await check_version(self._engine, TRIAL, probe)
            finally:
                await self._engine.unload(TRIAL)

    def _find(self, sha256: str) -> PolicyView | None:
        with self._serving.database.read() as session:
            row = rows.find_by_manifest(session, sha256)
            return rows.view(row, self._pointers, self._engine) if row else None

    def _verify(self, path: Path, sha256: str) -> str:
        """Verify the hashes, names, shapes and finite values of the weights; return their kind."""
        root = self._serving.root
        if not path.resolve().is_relative_to(root):
            raise BadRequest(f"weights must be in a directory under {root}", param="path", code="bad_path")
        try:
            manifest = verify_manifest(path, sha256)
        except (ManifestError, OSError, ValueError) as error:
            raise BadRequest(str(error), param="path", code="bad_manifest") from error
        kind = manifest.get("kind")
        served = self._pointers.weights
        if kind != served:
            raise BadRequest(f"this server serves {served} weights, but the manifest says {kind!r}", code="wrong_kind")
        self._validate(path, served)
        return served

    async def _register(self, request: PolicyPublish, kind: str, parent: int) -> int:
        """Insert the version's row, `loading`, and return its number."""
        row = PolicyVersionRow(
            name=self._pointers.name,
            state="loading",
            kind=kind,
            path=str(Path(request.path)),
            manifest_sha256=request.manifest_sha256,
            parent=parent,
            run_id=request.run_id,
            step=request.step,
            created_at=time.time(),
        )
        return await self._serving.writer.write(lambda session: rows.insert(session, row))

    async def _record(self, version: int, previous: int, check: Check, swap_s: float, run_id: str) -> None:
        """Record that a version serves; if that fails, make the engine serve without it."""
        try:
            await self._serving.writer.write(
                lambda session: self._accept(session, version, previous, check, swap_s, run_id)
            )
        except Exception as error:
            await self._refuse(version, previous, f"its acceptance was not recorded: {error}")
            raise

    async def _refuse(self, version: int, previous: int, reason: str) -> None:
        """Make the engine serve without a version, and record that it failed."""
        log.error("version %d is refused: %s", version, reason)
        try:
            await self._unload(version, previous)
        finally:
            with suppress(Unavailable):  # The next start records it.
                await self._serving.writer.write(lambda session: rows.set_failed(session, version, reason))

    async def _unload(self, version: int, previous: int) -> None:
        if version not in self._engine.versions:
            return
        if self._pointers.shared:
            await self._engine.load(await self._serving.read(lambda session: rows.weights(session, previous)))
        else:
            await self._engine.unload(version)

    def _accept(self, session: Session, version: int, previous: int, check: Check, swap_s: float, run_id: str) -> None:
        rows.set_ready(session, version, check_mean=check.mean, check_max=check.max, swap_s=swap_s)
        session.execute(sa.update(RunRow).where(RunRow.id == run_id).values(last_version=version))
        if self._pointers.shared:
            reason = "one engine of full weights: live traffic gets each new version"
            session.add(ledger.new_entry(previous, version, "publish", reason, ledger.BY_SWAP))
