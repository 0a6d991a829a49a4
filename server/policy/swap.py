"""A new version arrives: verify it, load it beside or in place of the old one, check it, move the pointers (step 12).

The order keeps the promise that a crash at any point leaves a good version serving: a version's row says `ready` only
after the engine has loaded it and its logprobs of the probe agree with the learner's own.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from clients.manifest import ManifestError, verify_manifest
from clients.wire import GateEvidence, PolicyPublish, PolicyView, Probe
from server.errors import BadRequest, Conflict, NotFound, UpturnError
from server.policy import ledger
from server.policy.engine import Engine, Weights
from server.policy.routing import Pointers
from server.store.database import Database
from server.store.tables import BatchRow, PolicyVersionRow, RunRow
from server.store.writer import Writer

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

    def __init__(self, *, database: Database, writer: Writer, engine: Engine, pointers: Pointers, base: Path,
                 root: Path, validate: Callable[[Path, str], None], open_versions: Callable[[], set[int]],
                 keep_versions: int) -> None:
        self._database = database
        self._writer = writer
        self._engine = engine
        self._pointers = pointers
        self._base = Weights(0, "base", base)
        self._root = root.resolve()
        self._validate = validate
        self._open_versions = open_versions
        self._keep = keep_versions
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """Register the base model at the first start; start the engine on the champion."""
        await self._writer.write(self._register_base)
        await self._write(sa.update(PolicyVersionRow).where(PolicyVersionRow.state == "loading").values(
            state="failed", reason="the server stopped while it was loading"))
        champion, head = await asyncio.to_thread(self._read_pointers)
        self._pointers.champion, self._pointers.head = champion.version, champion.version
        await self._engine.start(self._base, champion)
        if not self._pointers.shared and head.version != champion.version:
            await self._engine.load(head)
            self._pointers.head = head.version

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
            row = PolicyVersionRow(name=self._pointers.name, state="loading", kind=kind, path=str(path),
                                   manifest_sha256=request.manifest_sha256, parent=self._pointers.head,
                                   run_id=request.run_id, step=request.step, created_at=time.time())
            version = await self._writer.write(lambda session: _number(session, row))
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
            log.info("version %d serves after %.2f s (check: mean %.4f, max %.4f nats)", version, swap_s, check.mean,
                     check.max)
            await self._tidy()
            return (await asyncio.to_thread(self.views, version))[0]

    async def promote(self, version: int, *, by: str, reason: str = "by hand", action: str = "promote") -> PolicyView:
        """Make a version the champion; `by` says who wants it.

        Raises:
            NotFound: no such version, or its weights are gone.
        """
        async with self._one_at_a_time:
            weights = await asyncio.to_thread(self._weights_of, version)
            before = self._pointers.champion
            if version not in self._engine.versions:
                await self._engine.load(weights)
            self._pointers.champion = version
            if self._pointers.shared:
                self._pointers.head = version
            await self._writer.write(lambda session: session.add(ledger.entry(before, version, action, reason, by)))
            return (await asyncio.to_thread(self.views, version))[0]

    async def rollback(self, *, by: str, reason: str = "by hand") -> PolicyView:
        """Make the champion before this one the champion again."""
        now = self._pointers.champion
        before = await asyncio.to_thread(self._read, lambda session: ledger.champion_before(session, now))
        if before is None:
            raise Conflict("there was no champion before this one", code="no_earlier_champion")
        return await self.promote(before, by=by, reason=reason, action="rollback")

    async def settle(self, run_id: str, evidence: GateEvidence) -> None:
        """Act on the gate's decision on a run's candidate, and record it; once decided, a run stays so.

        The candidate becomes the champion, or is undone: one engine of full weights loads the champion again, and with
        adapters the next run begins from the champion.

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
            to = candidate if promoted else approved
            if to not in self._engine.versions:
                await self._engine.load(await asyncio.to_thread(self._weights_of, to))
            if await self._writer.write(lambda session: _settle(session, run_id, evidence, approved)):
                log.info("run %s: version %d is %s", run_id, candidate, "promoted" if promoted else "rejected")
            self._pointers.champion = to
            if self._pointers.shared or self._pointers.head == candidate:
                self._pointers.head = to
            await self._tidy()

    def views(self, only: int | None = None) -> list[PolicyView]:
        """Return the ready versions, newest first. Reads the database: not for the event loop."""
        query = sa.select(PolicyVersionRow).where(PolicyVersionRow.state.in_(("ready", "retired")))
        if only is not None:
            query = query.where(PolicyVersionRow.version == only)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(PolicyVersionRow.version.desc())).all()
        return [self._view(row) for row in rows]

    async def _check(self, version: int, probe: Probe) -> Check:
        """Compare the engine with the learner: the only thing that catches a silently mixed load."""
        if len(probe.logprobs) != len(probe.token_ids) - 1:
            raise BadRequest("a probe of T tokens needs T-1 logprobs", param="probe", code="bad_probe")
        served = await self._engine.spot_check(version, probe.token_ids)
        gaps = [abs(a - b) for a, b in zip(served, probe.logprobs, strict=True) if a is not None]
        if len(gaps) < min(LEAST_CHECKED, len(served)):
            raise Conflict(f"of the probe's tokens only {len(gaps)} are among those that the engine holds likely: what "
                           "was loaded is not what was trained", code="check_failed")
        check = Check(sum(gaps) / len(gaps), max(gaps))
        if not check.mean <= self._engine.check_tolerance:
            raise Conflict(
                f"the engine's logprobs differ from the learner's by {check.mean:.4f} nats on average (at most "
                f"{self._engine.check_tolerance} is numerics): what was loaded is not what was trained",
                code="check_failed")
        return check

    async def _take_back(self, version: int, before: int, reason: str) -> None:
        """Return to the version before a failed one."""
        change = sa.update(PolicyVersionRow).where(PolicyVersionRow.version == version).values(
            state="failed", reason=reason)
        await self._write(change)
        log.error("version %d is refused: %s", version, reason)
        if version in self._engine.versions:
            if self._pointers.shared:
                await self._engine.load(await asyncio.to_thread(self._weights_of, before))
            else:
                await self._engine.unload(version)

    async def _write(self, change: sa.Update) -> None:
        await self._writer.write(lambda session: session.execute(change))

    def _accept(self, session: Session, version: int, before: int, check: Check, swap_s: float,
                request: PolicyPublish) -> None:
        session.execute(sa.update(PolicyVersionRow).where(PolicyVersionRow.version == version).values(
            state="ready", check_mean=check.mean, check_max=check.max, swap_s=swap_s))
        session.execute(sa.update(RunRow).where(RunRow.id == request.run_id).values(last_version=version))
        if self._pointers.shared:
            reason = "one engine of full weights: live traffic gets each new version"
            session.add(ledger.entry(before, version, "publish", reason, ledger.BY_SWAP))

    async def _tidy(self) -> None:
        """Unload adapters that no episode uses and delete weights beyond what settings keep."""
        rows, needed_by_runs = await asyncio.to_thread(self._ready_versions)
        in_use = {0, self._pointers.champion, self._pointers.head} | self._open_versions()
        for version in self._engine.versions - in_use:
            if not self._pointers.shared:
                await self._engine.unload(version)
        kept = in_use | needed_by_runs | {row.version for row in rows[: self._keep]}
        for row in rows:
            if row.version not in kept and row.kind != "base":
                await asyncio.to_thread(shutil.rmtree, row.path, True)
                gone = sa.update(PolicyVersionRow).where(PolicyVersionRow.version == row.version).values(
                    state="retired")
                await self._write(gone)

    def _ready_versions(self) -> tuple[Sequence[PolicyVersionRow], set[int | None]]:
        """Return the ready versions, newest first, and those that runs or the gate need, new or not."""
        with self._database.read() as session:
            rows = session.scalars(sa.select(PolicyVersionRow).where(PolicyVersionRow.state == "ready")
                                   .order_by(PolicyVersionRow.version.desc())).all()
            undecided = sa.or_(RunRow.ended_at.is_(None), RunRow.gate == "due")
            needed = set(session.scalars(sa.union_all(
                sa.select(RunRow.last_version), sa.select(RunRow.first_version).where(undecided))))
            return rows, needed | {ledger.approved(session)}

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
            row = session.scalar(sa.select(PolicyVersionRow).where(
                PolicyVersionRow.manifest_sha256 == sha256, PolicyVersionRow.state == "ready"))
        return self._view(row) if row else None

    def _read(self, query: Callable[[Session], T]) -> T:
        with self._database.read() as session:
            return query(session)

    def _weights_of(self, version: int) -> Weights:
        with self._database.read() as session:
            row = session.get(PolicyVersionRow, version)
        if row is None or row.state != "ready":
            raise NotFound(f"no version {version}, or its weights are gone", code="version_not_found")
        return _weights(row)

    def _read_pointers(self) -> tuple[Weights, Weights]:
        with self._database.read() as session:
            champion, head = ledger.champion(session), ledger.head(session)
            return (_weights(session.get_one(PolicyVersionRow, champion)),
                    _weights(session.get_one(PolicyVersionRow, head)))

    def _register_base(self, session: Session) -> None:
        row = session.get(PolicyVersionRow, 0)
        if row is None:
            session.add(PolicyVersionRow(version=0, name=self._pointers.name, state="ready", kind="base",
                                         path=str(self._base.path), created_at=time.time()))
            session.flush()
            session.add(ledger.entry(None, 0, "first", "the base model", ledger.BY_SWAP))
        elif row.path != str(self._base.path):
            raise Conflict(f"this database began with the model {row.path}, not {self._base.path}: use another "
                           "data directory for another model", code="other_base_model")

    def _view(self, row: PolicyVersionRow) -> PolicyView:
        return PolicyView(
            name=row.name, version=row.version, id=f"{row.name}@{row.version}", kind=row.kind,  # type: ignore[arg-type]
            path=row.path, manifest_sha256=row.manifest_sha256, parent=row.parent, run_id=row.run_id, step=row.step,
            horizon=row.horizon, champion=row.version == self._pointers.champion,
            head=row.version == self._pointers.head, loaded=row.version in self._engine.versions, swap_s=row.swap_s,
            check_mean=row.check_mean, check_max=row.check_max, created_at=row.created_at)


def _weights(row: PolicyVersionRow) -> Weights:
    return Weights(row.version, row.kind, Path(row.path))  # type: ignore[arg-type]


def _number(session: Session, row: PolicyVersionRow) -> int:
    """Give the row the next version number and its step's horizon, and store it."""
    row.version = (session.scalar(sa.select(sa.func.max(PolicyVersionRow.version))) or 0) + 1
    row.horizon = session.scalar(sa.select(BatchRow.horizon).where(
        BatchRow.run_id == row.run_id, BatchRow.step == row.step))
    session.add(row)
    return row.version


def _settle(session: Session, run_id: str, evidence: GateEvidence, champion: int) -> bool:
    """Record a decision of the gate; return False where the run has one, or its candidate is champion by hand."""
    run = session.get_one(RunRow, run_id)
    if run.gate != "due":
        return False
    if champion == evidence.candidate:
        run.gate = "void"
        return False
    if evidence.objections:
        run.gate, before, to, action = "rejected", evidence.candidate, champion, "reject"
        reason = "; ".join(evidence.objections)
    else:
        run.gate, before, to, action = "promoted", champion, evidence.candidate, "promote"
        gain = evidence.gain
        reason = f"mean gain {gain.mean:+.3f}, from {gain.low:+.3f} to {gain.high:+.3f}" if gain else ""
    session.add(ledger.entry(before, to, action, reason, ledger.BY_GATE, run_id=run_id, evidence=evidence))
    return True
