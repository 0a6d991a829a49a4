"""A new version arrives: verify it, load it beside or in place of the old one, check it, move the pointers (step 12).

The order keeps the promise that a crash at any point leaves a good version serving: a version's row says `ready` only
after the engine has loaded it and its logprobs of the probe agree with the learner's own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.engines.protocol import Engine, Weights
from server.errors import BadRequest, Conflict, UpturnError
from server.store.database import Database
from server.store.tables import PolicyVersionRow, RunRow
from server.store.writer import Writer
from server.versions import disk, ledger
from server.versions import rows as versions
from server.versions.residency import Residency
from server.versions.routing import Pointers
from server.versions.settings import VersionSettings
from upturn.manifest import ManifestError, verify_manifest
from upturn.wire import GateEvidence, LiveEvidence, PolicyPublish, PolicyView, Probe

log = logging.getLogger("upturn.swap")
T = TypeVar("T")
LEAST_CHECKED = 6
"""Tokens of the probe that a check has to see; ours."""


@dataclass(frozen=True, slots=True)
class Check:
    """How far the engine's logprobs of the probe are from the learner's, in nats."""

    mean: float
    max: float


class Swap:
    """Owns the versions: the only writer of `policy_version`, `promotion` and the pointers."""

    def __init__(
        self,
        *,
        database: Database,
        writer: Writer,
        engine: Engine,
        pointers: Pointers,
        base: Path,
        root: Path,
        validate: Callable[[Path, str], None],
        open_versions: Callable[[], set[int]],
        held_versions: Callable[[], set[int]],
        settings: VersionSettings,
    ) -> None:
        self._database = database
        self._writer = writer
        self._engine = engine
        self._pointers = pointers
        self._base = Weights(0, "base", base)
        self._root = root.resolve()
        self._validate = validate
        self._open_versions = open_versions
        self._settings = settings
        self._one_at_a_time = asyncio.Lock()
        self.residency = Residency(
            settings,
            database=database,
            engine=engine,
            pointers=pointers,
            swapping=self._one_at_a_time,
            load=self._serve,
            held=held_versions,
        )

    async def start(self) -> None:
        """Register the base model at the first start; start the engine on the champion."""
        await self._writer.write(lambda session: versions.register_base(session, self._pointers.name, self._base.path))
        await self._write(
            sa.update(PolicyVersionRow)
            .where(PolicyVersionRow.state == "loading")
            .values(state="failed", reason="the server stopped while it was loading")
        )
        champion, head = await asyncio.to_thread(self._read, versions.read_pointers)
        self._pointers.champion, self._pointers.head = champion.version, champion.version
        await self._engine.start(self._base, champion)
        if not self._pointers.shared and head.version != champion.version:
            await self._engine.load(head)
            self._pointers.head = head.version
        await self._go_on_with_canary()
        await asyncio.to_thread(
            disk.delete, await asyncio.to_thread(self._read, lambda session: disk.left_behind(session, self._root))
        )

    async def publish(self, request: PolicyPublish) -> PolicyView:
        """Take a new version into service; the same manifest again gives the same version.

        Raises:
            BadRequest: the files are not what the manifest says, or not weights of this model.
            Conflict: the engine's logprobs disagree with the learner's; the old version serves on.
            EngineError: loading failed; the engine restarts on the old version.
        """
        began = time.perf_counter()
        async with self._one_at_a_time:
            known = await asyncio.to_thread(self._find, request.manifest_sha256)
            if known is not None:
                return known
            path = Path(request.path)
            kind = await asyncio.to_thread(self._verify, path, request.manifest_sha256)
            row = PolicyVersionRow(
                name=self._pointers.name,
                state="loading",
                kind=kind,
                path=str(path),
                manifest_sha256=request.manifest_sha256,
                parent=self._pointers.head,
                run_id=request.run_id,
                step=request.step,
                created_at=time.time(),
            )
            version = await self._writer.write(lambda session: versions.number(session, row))
            before = self._pointers.head
            try:
                await self._engine.load(Weights(version, kind, path))  # type: ignore[arg-type]
                check = await self._check(version, request.probe)
            except UpturnError as error:
                await self._take_back(version, before, error.message)
                raise
            swap_s = time.perf_counter() - began
            self._pointers.head = version
            if self._pointers.shared:
                self._pointers.champion = version
            await self._writer.write(lambda session: self._accept(session, version, before, check, swap_s, request))
            log.info(
                "version %d serves after %.2f s (check: mean %.4f, max %.4f nats)",
                version,
                swap_s,
                check.mean,
                check.max,
            )
            await self._tidy()
            return await self._view(version)

    async def promote(self, version: int, *, by: str, reason: str = "by hand", action: str = "promote") -> PolicyView:
        """Make a version the champion; `by` says who wants it.

        Raises:
            NotFound: no such version, or its weights are gone.
        """
        async with self._one_at_a_time:
            before = self._pointers.champion
            await self._serve(version)
            await self._writer.write(lambda session: ledger.change(session, before, version, action, reason, by))
            self._point(version)
            return await self._view(version)

    async def rollback(self, *, by: str, reason: str = "by hand") -> PolicyView:
        """Make the champion before this one the champion again."""
        now = self._pointers.champion
        before = await asyncio.to_thread(self._read, lambda session: ledger.champion_before(session, now))
        if before is None:
            raise Conflict("there was no champion before this one", code="no_earlier_champion")
        return await self.promote(before, by=by, reason=reason, action="rollback")

    async def settle(self, run_id: str, evidence: GateEvidence) -> None:
        """Act on the gate's decision on a run's candidate, and record it; once decided, a run stays so.

        The candidate becomes the champion, or the canary where settings want one, or is undone: one engine of full
        weights loads the champion again, and with adapters the next run begins from the champion.

        Raises:
            NotFound: the weights are gone.
            EngineError: loading failed; nothing is recorded.
        """
        async with self._one_at_a_time:
            approved = await asyncio.to_thread(self._read, ledger.approved)
            if approved != evidence.champion:
                moved = f"version {approved} has become the champion meanwhile, and was not compared with"
                evidence = evidence.model_copy(update={"objections": [*evidence.objections, moved]})
            promoted, candidate = not evidence.objections, evidence.candidate
            canary = promoted and self._pointers.share > 0
            await self._serve(candidate if promoted else approved)
            recorded = await self._writer.write(
                lambda session: ledger.settle(session, run_id, evidence, approved, canary=canary)
            )
            if recorded:
                became = "the canary" if canary else "promoted" if promoted else "rejected"
                log.info("run %s: version %d is %s", run_id, candidate, became)
            if not canary:
                self._point(candidate if promoted else approved, undone=candidate)
            elif recorded:
                self._pointers.canary = candidate
            await self._tidy()

    async def end_canary(
        self, row_id: int, candidate: int, *, promote: bool, reason: str, evidence: LiveEvidence | None
    ) -> None:
        """Make the canary the champion, or undo it; nothing happens where that row of the ledger has been overtaken.

        Raises:
            NotFound: it is to be promoted, and its weights are gone.
            EngineError: loading failed; nothing is recorded.
        """
        async with self._one_at_a_time:
            to = candidate if promote else self._pointers.champion
            await self._serve(to)
            if await self._writer.write(
                lambda session: ledger.settle_canary(session, row_id, promote=promote, reason=reason, evidence=evidence)
            ):
                log.info("the canary, version %d, is %s: %s", candidate, "promoted" if promote else "rejected", reason)
                self._point(to, undone=candidate)
            await self._tidy()

    async def take_back(self, row_id: int, evidence: LiveEvidence, reason: str) -> bool:
        """Make the champion before a promotion the champion again; return False where it is not for us to do so.

        That is where somebody else has decided meanwhile, or has pinned the champion.

        Raises:
            NotFound: the weights of the champion before are gone.
            EngineError: loading failed; nothing is recorded.
        """
        bad, good = evidence.now.version, evidence.before.version

        def allowed(session: Session) -> bool:
            return ledger.standing(session).id == row_id and not versions.ready_version(session, bad).pinned

        async with self._one_at_a_time:
            if self._pointers.champion != bad or not await asyncio.to_thread(self._read, allowed):
                return False
            await self._serve(good)
            if not await self._writer.write(lambda session: ledger.take_back(session, row_id, reason, evidence)):
                return False
            log.warning("version %d is taken back, version %d is the champion again: %s", bad, good, reason)
            self._point(good, undone=bad)
            await self._tidy()
            return True

    async def pin(self, version: int, pinned: bool) -> PolicyView:
        """Keep a version's weights whatever comes, or no longer.

        Raises:
            NotFound: no such version, or its weights are gone.
        """

        def change(session: Session) -> None:
            versions.ready_version(session, version).pinned = pinned

        async with self._one_at_a_time:  # Else it could be deleted between.
            await self._writer.write(change)
            return await self._view(version)

    def views(self, only: int | None = None) -> list[PolicyView]:
        """Return the ready versions, newest first. Reads the database: not for the event loop."""
        with self._database.read() as session:
            return [versions.view(row, self._pointers, self._engine) for row in versions.listed(session, only)]

    async def _view(self, version: int) -> PolicyView:
        return (await asyncio.to_thread(self.views, version))[0]

    async def _serve(self, version: int) -> None:
        """See to it that the engine can answer with a version, and that it could again after a restart."""
        weights = await asyncio.to_thread(self._read, lambda session: versions.weights_of(session, version))
        if version not in self._engine.versions:
            await self._engine.load(weights)

    def _point(self, champion: int, undone: int | None = None) -> None:
        """Give live traffic a champion, all of it; a head that is undone gives way to it too."""
        self._pointers.champion, self._pointers.canary = champion, None
        if self._pointers.shared or self._pointers.head == undone:
            self._pointers.head = champion

    async def _go_on_with_canary(self) -> None:
        """After a restart: the candidate that live traffic tried goes on, if its weights are there."""
        row = await asyncio.to_thread(self._read, ledger.canary)
        if row is None or row.from_version is None or self._pointers.shared:
            return
        try:
            await self._serve(row.from_version)
        except UpturnError as error:
            log.error("the canary, version %d, cannot be loaded: %s", row.from_version, error)
        else:
            self._pointers.canary = row.from_version

    async def _check(self, version: int, probe: Probe) -> Check:
        """Compare the engine with the learner: the only thing that catches a silently mixed load."""
        if len(probe.logprobs) != len(probe.token_ids) - 1:
            raise BadRequest("a probe of T tokens needs T-1 logprobs", param="probe", code="bad_probe")
        served = await self._engine.spot_check(version, probe.token_ids)
        gaps = [abs(a - b) for a, b in zip(served, probe.logprobs, strict=True) if a is not None]
        if len(gaps) < min(LEAST_CHECKED, len(served)):
            raise Conflict(
                f"of the probe's tokens only {len(gaps)} are among those that the engine holds likely: what "
                "was loaded is not what was trained",
                code="check_failed",
            )
        check = Check(sum(gaps) / len(gaps), max(gaps))
        if not check.mean <= self._engine.check_tolerance:
            raise Conflict(
                f"the engine's logprobs differ from the learner's by {check.mean:.4f} nats on average (at most "
                f"{self._engine.check_tolerance} is numerics): what was loaded is not what was trained",
                code="check_failed",
            )
        return check

    async def _take_back(self, version: int, before: int, reason: str) -> None:
        """Return to the version before a failed one."""
        change = (
            sa.update(PolicyVersionRow).where(PolicyVersionRow.version == version).values(state="failed", reason=reason)
        )
        await self._write(change)
        log.error("version %d is refused: %s", version, reason)
        if version in self._engine.versions:
            if self._pointers.shared:
                await self._engine.load(
                    await asyncio.to_thread(self._read, lambda session: versions.weights_of(session, before))
                )
            else:
                await self._engine.unload(version)

    async def _write(self, change: sa.Update) -> None:
        await self._writer.write(lambda session: session.execute(change))

    def _accept(
        self, session: Session, version: int, before: int, check: Check, swap_s: float, request: PolicyPublish
    ) -> None:
        session.execute(
            sa.update(PolicyVersionRow)
            .where(PolicyVersionRow.version == version)
            .values(state="ready", check_mean=check.mean, check_max=check.max, swap_s=swap_s)
        )
        session.execute(sa.update(RunRow).where(RunRow.id == request.run_id).values(last_version=version))
        if self._pointers.shared:
            reason = "one engine of full weights: live traffic gets each new version"
            session.add(ledger.entry(before, version, "publish", reason, ledger.BY_SWAP))

    async def _tidy(self) -> None:
        """Unload adapters that nobody uses, and delete weights that nothing needs."""
        await self.residency.tidy()
        in_use = self._engine.versions | {self._pointers.champion, self._pointers.head} | self._open_versions()

        def retire(session: Session) -> list[Path]:
            gone = disk.surplus(session, self._settings, in_use)
            paths = [versions.weights_of(session, version).path for version in gone]
            disk.retire(session, gone)
            return paths

        await asyncio.to_thread(disk.delete, await self._writer.write(retire))

    def _verify(self, path: Path, sha256: str) -> str:
        if not path.resolve().is_relative_to(self._root):
            raise BadRequest(f"weights must lie under {self._root}", param="path", code="bad_path")
        try:
            manifest = verify_manifest(path, sha256)
        except (ManifestError, OSError, ValueError) as error:
            raise BadRequest(str(error), param="path", code="bad_manifest") from error
        kind = manifest.get("kind")
        wanted = "full" if self._pointers.shared else "adapter"
        if kind != wanted:
            raise BadRequest(f"this server serves {wanted} weights, the manifest says {kind!r}", code="wrong_kind")
        self._validate(path, wanted)
        return wanted

    def _find(self, sha256: str) -> PolicyView | None:
        with self._database.read() as session:
            row = versions.published(session, sha256)
            return versions.view(row, self._pointers, self._engine) if row else None

    def _read(self, query: Callable[[Session], T]) -> T:
        with self._database.read() as session:
            return query(session)
