"""The promotion gate: a run's last version is compared with the champion, then promoted or undone (step 13).

With adapters both are in the engine, and are evaluated when the run has ended. One engine of full weights holds one
version: there the champion is evaluated before the run's first step. Everything the gate knows stands in rows (the
run's `gate`, its evaluation plays), so after a restart it goes on with the figures it has and plays what is missing.
No new run begins while a decision is due. What to decide is `gate_rule.py`, who acts on it `server/versions/swap.py`.
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
from server.training.evaluations import Evaluations, Unmeasurable, last_horizon
from server.training.gate_rule import LOOKED_AT, Comparison, Measured, Pair, decide, too_few_verdicts
from server.training.runs import Runs, undecided
from server.training.settings import GateSettings
from server.versions import ledger
from server.versions.routing import Pointers
from server.versions.swap import Swap
from upturn.wire import GateEvidence, RunConfig

log = logging.getLogger("upturn.gate")
LOOK_S = 1.0  # Pause between two looks for runs that have ended.
WAIT_S = 10.0


class PromotionGate:
    """Decides on candidates, one after the other."""

    def __init__(
        self,
        settings: GateSettings,
        *,
        database: Database,
        writer: Writer,
        evaluations: Evaluations,
        swap: Swap,
        pointers: Pointers,
        runs: Runs,
    ) -> None:
        self._settings = settings
        self._database = database
        self._writer = writer
        self._evaluations = evaluations
        self._swap = swap
        self._pointers = pointers
        self._runs = runs
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for candidates; those that were left undecided come first."""
        self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Stop; what is undecided is taken up at the next start."""
        await background.end(self._task)

    async def ready(self, run_id: str, wait_s: float) -> bool:
        """Return whether a run's first step may be played: its plan can be, and the champion has its figures.

        Raises:
            Conflict: that cannot be; the run has failed, since no candidate of it could ever be judged.
        """
        run = await self._runs.view(run_id)
        plan, version = run.config.evaluation, run.first_version
        if plan is None or version is None:
            return True
        horizon = last_horizon(run.config.schedule)
        try:
            await self._evaluations.check(plan, horizon)
            for environment in plan.tasks if self._pointers.shared else ():
                found = await self._evaluations.measure(run_id, version, environment, plan, horizon, wait_s)
                if found is None:
                    return False
                if few := too_few_verdicts(self._settings, environment, version, found.figures):
                    raise Unmeasurable(few[0])
        except Unavailable:
            raise
        except (Unmeasurable, UpturnError) as error:
            reason = f"the gate could never judge it: {error}"
            await self._runs.fail(run_id, reason)
            raise Conflict(f"run {run_id} has failed: {reason}", code="run_ended") from error
        return True

    async def check(self) -> None:
        """Decide on all candidates that wait for it."""
        for run in await asyncio.to_thread(self._undecided):
            await self._judge(run)

    async def _look(self) -> None:
        while True:
            try:
                await self.check()
            except (*BROKEN, UpturnError) as error:
                log.error("the gate cannot act, and tries again: %s", error)
            except Exception:
                log.exception("the gate cannot act, and tries again")
            await asyncio.sleep(LOOK_S)

    async def _judge(self, run: RunRow) -> None:
        champion, head = await asyncio.to_thread(self._standing)
        candidate = run.last_version
        if candidate is None or candidate == champion or candidate != head:
            await self._nothing_to_decide(run, head)
        elif candidate == self._pointers.head:  # Else another server holds it.
            await self._swap.settle(run.id, await self._evidence(run, champion, candidate))

    async def _evidence(self, run: RunRow, champion: int, candidate: int) -> GateEvidence:
        """Compare, and decide; whatever prevents a comparison is an objection."""
        pairs: dict[str, Pair] = {}
        objections: list[str] = []
        config = RunConfig.model_validate(run.config)
        if run.state != "done":
            objections.append(f"the run has not ended well: {run.state}, {run.reason}")
        elif self._pointers.shared and champion != run.first_version:
            objections.append(
                f"version {champion} has become the champion meanwhile, and was not evaluated before the "
                "run's first step"
            )
        else:
            try:
                pairs = await self._pairs(run.id, config, champion, candidate)
            except (*BROKEN, Unavailable):
                raise
            except (Unmeasurable, UpturnError) as error:
                objections.append(f"nothing can be decided: {error}")
            except Exception as error:
                log.exception("the evaluation of run %s failed", run.id)
                objections.append(f"nothing can be decided: {type(error).__name__}: {error}")
        seed = 0 if config.evaluation is None else config.evaluation.seed
        metrics = await asyncio.to_thread(self._metrics, run.id)
        return decide(
            self._settings,
            Comparison(champion, candidate, last_horizon(config.schedule), seed, pairs, metrics),
            objections,
        )

    async def _pairs(self, run_id: str, config: RunConfig, champion: int, candidate: int) -> dict[str, Pair]:
        plan = config.evaluation
        if plan is None:
            raise Unmeasurable("the run has no evaluation plan")

        async def figures(version: int, environment: str) -> Measured:
            while True:
                found = await self._evaluations.measure(
                    run_id, version, environment, plan, last_horizon(config.schedule), WAIT_S
                )
                if found is not None:
                    return found

        return {
            environment: Pair(await figures(champion, environment), await figures(candidate, environment))
            for environment in plan.tasks
        }

    async def _nothing_to_decide(self, run: RunRow, head: int) -> None:
        """Note that a run published nothing, or that its version is not the newest any more, or is approved by hand."""
        log.info("run %s has no candidate: its last version is %s, the newest is %d", run.id, run.last_version, head)
        change = sa.update(RunRow).where(RunRow.id == run.id, RunRow.gate == "due").values(gate="void")
        await self._writer.write(lambda session: session.execute(change))

    def _undecided(self) -> Sequence[RunRow]:
        with self._database.read() as session:
            return session.scalars(undecided()).all()

    def _standing(self) -> tuple[int, int]:
        """Return the champion that was approved, and the newest trained version, as the record has them."""
        with self._database.read() as session:
            head = ledger.champion(session) if self._pointers.shared else ledger.head(session)
            return ledger.approved(session), head

    def _metrics(self, run_id: str) -> dict[str, float]:
        """Return means over a run's learner steps."""
        query = (
            sa.select(MetricRow.name, sa.func.avg(MetricRow.value).label("mean"))
            .where(MetricRow.run_id == run_id, MetricRow.name.in_(LOOKED_AT))
            .group_by(MetricRow.name)
        )
        with self._database.read() as session:
            return {row.name: row.mean for row in session.execute(query)}
