"""The promotion gate: compare a run's last version, the candidate, with the champion; promote or undo it (step 13).

With adapters the engine holds both versions, and both are evaluated after the run. One engine of full weights holds one
version, so the champion is evaluated before the run's first learner step. The gate keeps its state in rows (the run's
`gate`, its evaluation plays, the ledger): after a restart it reuses the recorded results and plays what is missing. No
run starts while a decision is due. `comparing.py` plays, `gate_rule.py` decides, `server/versions/champion.py` acts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import sqlalchemy as sa

from server import background
from server.errors import Conflict, Unavailable, UpturnError
from server.store.database import BROKEN, Database
from server.store.tables import MetricRow, RunRow
from server.store.writer import Writer
from server.training.comparing import Comparing
from server.training.evaluations import Evaluations, Unmeasurable, last_horizon
from server.training.gate_rule import RUN_METRICS, Comparison, decide
from server.training.run_states import undecided
from server.training.runs import Runs
from server.training.settings import GateSettings
from server.versions import ledger
from server.versions.champion import Champions
from server.versions.routing import Pointers
from upturn.wire import GateEvidence, RunConfig

log = logging.getLogger("upturn.gate")
INTERVAL_S = 1.0  # Pause between two checks for candidates.


class PromotionGate:
    """Decides on candidates, one at a time."""

    def __init__(
        self,
        settings: GateSettings,
        *,
        database: Database,
        writer: Writer,
        evaluations: Evaluations,
        champions: Champions,
        pointers: Pointers,
        runs: Runs,
    ) -> None:
        self._settings = settings
        self._database = database
        self._writer = writer
        self._evaluations = evaluations
        self._comparing = Comparing(settings, evaluations, shared=pointers.shared)
        self._champions = champions
        self._pointers = pointers
        self._runs = runs
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start deciding on candidates in the background, undecided candidates of earlier runs included."""
        self._task = asyncio.create_task(self._check_repeatedly())

    async def close(self) -> None:
        """Stop; the next start continues with undecided candidates."""
        await background.end(self._task)

    async def ready(self, run_id: str, wait_s: float) -> bool:
        """Return whether a run may start its first learner step: its evaluation plan is valid.

        With full weights the champion must also have been evaluated, since the run replaces it in the engine.

        Args:
            run_id: a run that a learner holds.
            wait_s: how long to wait for the champion's evaluation before returning False.

        Raises:
            Conflict: the run's candidates could never be judged; the run has been marked failed.
        """
        run = await self._runs.view(run_id)
        plan, version = run.config.evaluation, run.first_version
        if plan is None or version is None:
            return True
        horizon = last_horizon(run.config.schedule)
        try:
            tasks = await self._evaluations.check(run_id, plan, horizon)
            if self._pointers.shared:
                return await self._comparing.measure_champion(run_id, version, plan, horizon, tasks, wait_s)
        except Unavailable:
            raise
        except (Unmeasurable, UpturnError) as error:
            reason = f"the gate could never judge its candidates: {error}"
            await self._runs.fail(run_id, reason)
            raise Conflict(f"run {run_id} has failed: {reason}", code="run_ended") from error
        return True

    async def check(self) -> None:
        """Decide on all candidates of ended runs."""
        for run in await asyncio.to_thread(self._undecided):
            await self._judge(run)

    async def _check_repeatedly(self) -> None:
        while True:
            try:
                await self.check()
            except (*BROKEN, UpturnError) as error:
                log.error("the gate cannot act, retrying: %s", error)
            except Exception:
                log.exception("the gate cannot act, retrying")
            await asyncio.sleep(INTERVAL_S)

    async def _judge(self, run: RunRow) -> None:
        champion, newest = await asyncio.to_thread(self._approved_and_newest)
        candidate = run.last_version
        if candidate is None or candidate == champion or candidate != newest:
            await self._void(run, newest)
        elif candidate == self._pointers.head:  # Otherwise another server on this database holds the candidate.
            evidence = await self._evidence(run, champion, candidate)
            undone = run.collapsed or evidence.worse or evidence.flagged
            continues = run.campaign_id is not None and not (evidence.promoted or undone)
            await self._champions.settle(run.id, evidence.model_copy(update={"continues": continues}))

    async def _evidence(self, run: RunRow, champion: int, candidate: int) -> GateEvidence:
        """Compare candidate and champion, and decide; anything that prevents a comparison is an objection."""
        config = RunConfig.model_validate(run.config)
        spent, metrics = await asyncio.to_thread(self._spent_and_metrics, run.id)
        compared = Comparison(champion, candidate, last_horizon(config.schedule), {}, metrics, spent=spent)
        objections: list[str] = []
        if run.state != "done":
            objections.append(f"the run did not end well: {run.state}, {run.reason}")
        elif self._pointers.shared and champion != run.first_version:
            objections.append(
                f"version {champion} became the champion in the meantime, and was not evaluated before the run's "
                "first step"
            )
        elif config.evaluation is None:
            objections.append("nothing can be decided: the run has no evaluation plan")
        else:
            try:
                return await self._comparing.judge(run.id, config.evaluation, compared)
            except (*BROKEN, Unavailable):
                raise
            except (Unmeasurable, UpturnError) as error:
                objections.append(f"nothing can be decided: {error}")
            except Exception as error:
                log.exception("the evaluation of run %s failed", run.id)
                objections.append(f"nothing can be decided: {type(error).__name__}: {error}")
        return decide(self._settings, compared, objections)

    async def _void(self, run: RunRow, newest: int) -> None:
        """Record that a run has no candidate: no version, not the newest version, or one promoted by hand already."""
        log.info("run %s has no candidate: its last version is %s, the newest is %d", run.id, run.last_version, newest)
        change = sa.update(RunRow).where(RunRow.id == run.id, RunRow.gate == "due").values(gate="void")
        await self._writer.write(lambda session: session.execute(change))

    def _undecided(self) -> Sequence[RunRow]:
        with self._database.read() as session:
            return session.scalars(undecided()).all()

    def _approved_and_newest(self) -> tuple[int, int]:
        """Return the approved champion and the newest trained version, as recorded."""
        with self._database.read() as session:
            newest = ledger.champion(session) if self._pointers.shared else ledger.head(session)
            return ledger.approved(session), newest

    def _spent_and_metrics(self, run_id: str) -> tuple[float, dict[str, float]]:
        """Return the levels spent since the last promotion, and means of `RUN_METRICS` over a run's learner steps."""
        query = (
            sa.select(MetricRow.name, sa.func.avg(MetricRow.value).label("mean"))
            .where(MetricRow.run_id == run_id, MetricRow.name.in_(RUN_METRICS))
            .group_by(MetricRow.name)
        )
        with self._database.read() as session:
            return ledger.spent_levels(session), {row.name: row.mean for row in session.execute(query)}
