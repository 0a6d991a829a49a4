"""Which version is the champion: promotion and rollback by hand, the gate, canary and watch (steps 13, 14).

Each change loads the version that will serve, then records the change in the ledger, then moves the pointers: a crash
in between leaves either the old champion or the recorded one serving.
"""

from __future__ import annotations

import logging

from sqlalchemy.orm import Session

from server.errors import Conflict
from server.versions import ledger, rows
from server.versions.serving import Serving
from upturn.wire import GateEvidence, LiveEvidence, PolicyView

log = logging.getLogger("upturn.versions")


class Champions:
    """Changes the champion, and records each decision in the ledger."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._pointers = serving.pointers

    async def promote(self, version: int, *, by: str, reason: str = "by hand", action: str = "promote") -> PolicyView:
        """Make a version the champion; `by` names who asks for it.

        Raises:
            NotFound: the version does not exist, or its weights have been deleted.
        """
        async with self._serving.lock:
            previous = self._pointers.champion
            await self._serving.record_change(
                version, lambda session: ledger.record_manual_change(session, previous, version, action, reason, by)
            )
            self._serving.point(version)
            return await self._serving.view(version)

    async def rollback(self, *, by: str, reason: str = "by hand") -> PolicyView:
        """Make the previous champion the champion again.

        Raises:
            Conflict: there is no previous champion.
            NotFound: its weights have been deleted.
        """
        champion = self._pointers.champion
        previous = await self._serving.read(lambda session: ledger.previous_champion(session, champion))
        if previous is None:
            raise Conflict("there is no earlier champion", code="no_earlier_champion")
        return await self.promote(previous, by=by, reason=reason, action="rollback")

    async def settle(self, run_id: str, evidence: GateEvidence) -> None:
        """Act on the gate's decision on a run's candidate, and record it; a recorded decision never changes.

        A promoted candidate becomes the champion, or the canary if the settings ask for one. Any other is undone: an
        engine of full weights loads the champion again; with adapters the next run starts from the champion, or, in a
        campaign, from the campaign's state.

        Raises:
            NotFound: the weights have been deleted.
            EngineError: loading failed; nothing is recorded.
        """
        async with self._serving.lock:
            approved = await self._serving.read(ledger.approved)
            if approved != evidence.champion:
                moved = f"version {approved} became the champion in the meantime, and was not compared with"
                objections = [*evidence.objections, moved]
                evidence = evidence.model_copy(
                    update={"promoted": False, "continues": not evidence.flagged, "objections": objections}
                )
            candidate = evidence.candidate
            champion = candidate if evidence.promoted else approved
            canary = evidence.promoted and self._pointers.share > 0
            recorded = await self._serving.record_change(
                champion,
                lambda session: ledger.record_gate_decision(session, run_id, evidence, approved, canary=canary),
            )
            if recorded:
                outcome = "the canary" if canary else "promoted" if evidence.promoted else "not promoted"
                log.info("run %s: version %d is %s", run_id, candidate, outcome)
            if not canary:
                self._serving.point(champion, undone=candidate)
            elif recorded:
                self._pointers.canary = candidate
            await self._serving.tidy()

    async def settle_canary(
        self, row_id: int, candidate: int, *, promote: bool, reason: str, evidence: LiveEvidence | None
    ) -> None:
        """Make the canary the champion, or undo it; does nothing if the ledger has a newer row than `row_id`.

        Raises:
            NotFound: the candidate is to be promoted, and its weights have been deleted.
            EngineError: loading failed; nothing is recorded.
        """
        async with self._serving.lock:
            champion = candidate if promote else self._pointers.champion
            await self._serving.ensure_loaded(champion)
            if await self._serving.writer.write(
                lambda session: ledger.record_canary_outcome(
                    session, row_id, promote=promote, reason=reason, evidence=evidence
                )
            ):
                log.info("the canary, version %d, is %s: %s", candidate, "promoted" if promote else "rejected", reason)
                self._serving.point(champion, undone=candidate)
            await self._serving.tidy()

    async def take_back(self, row_id: int, evidence: LiveEvidence, reason: str) -> bool:
        """Undo a promotion after a fall of live rewards: its previous champion becomes the champion again.

        Args:
            row_id: the promotion's row in the ledger.
            evidence: the promoted version (`now`) earns less than its predecessor (`before`).
            reason: recorded in the ledger.

        Returns:
            False if the champion has changed since, or is pinned.

        Raises:
            NotFound: the weights of the previous champion have been deleted.
            EngineError: loading failed; nothing is recorded.
        """
        worse, better = evidence.now.version, evidence.before.version

        def allowed(session: Session) -> bool:
            return ledger.approval(session).id == row_id and not rows.ready(session, worse).pinned

        async with self._serving.lock:
            if self._pointers.champion != worse or not await self._serving.read(allowed):
                return False
            if not await self._serving.record_change(
                better, lambda session: ledger.record_rollback(session, row_id, reason, evidence)
            ):
                return False
            log.warning("version %d is rolled back, version %d is the champion again: %s", worse, better, reason)
            self._serving.point(better, undone=worse)
            await self._serving.tidy()
            return True

    async def pin(self, version: int, pinned: bool) -> PolicyView:
        """Protect a version's weights from deletion, and it from the watch; or end that.

        Raises:
            NotFound: the version does not exist, or its weights have been deleted.
        """

        def change(session: Session) -> None:
            rows.ready(session, version).pinned = pinned

        async with self._serving.lock:  # Otherwise the weights could be deleted before the view is read.
            await self._serving.writer.write(change)
            return await self._serving.view(version)
