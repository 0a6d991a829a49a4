"""Plays a run's evaluation round by round, until the decision is clear (step 13). `gate_rule.py` says when it is.

The order is: rounds of tasks that decide; guards, if the candidate would be promoted; tasks that only report, once it
is. Everything is played under the run's id, so after a restart the same calls find the same results.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from server.errors import Unavailable, UpturnError
from server.store.database import BROKEN
from server.training.evaluations import Evaluations, Unmeasurable
from server.training.gate_rule import Comparison, Measured, Pair, decide, is_clear
from server.training.judging.evaluation_tasks import EvaluationTasks
from server.training.objections import too_few_verdicts
from server.training.settings import GateSettings
from upturn.wire import EvaluationPlan, GateEvidence, Report

log = logging.getLogger("upturn.gate")
WAIT_S = 10.0  # Longest wait for an evaluation's results before asking again.


class Comparing:
    """Compares a candidate with the champion.

    Args:
        settings: the gate's rule.
        evaluations: plays tasks, and finds the results in the record.
        shared: one engine of full weights holds one version, so the champion has been evaluated before the run.
    """

    def __init__(self, settings: GateSettings, evaluations: Evaluations, *, shared: bool) -> None:
        self._settings = settings
        self._evaluations = evaluations
        self._shared = shared

    async def measure_champion(
        self, run_id: str, version: int, plan: EvaluationPlan, horizon: int, tasks: EvaluationTasks, wait_s: float
    ) -> bool:
        """Play everything that may be compared later; return False if that takes longer than `wait_s` seconds.

        Raises:
            Unmeasurable: there are no results, or too few.
        """
        for played, seed in ((tasks.rounds, tasks.seed), ([tasks.guards], plan.seed)):
            seeded = plan.model_copy(update={"seed": seed})
            parts: dict[str, list[Measured]] = {}
            for listed in played:
                for environment, asked in listed.items():
                    measured = await self._evaluations.measure(
                        run_id, version, environment, asked, seeded, horizon, wait_s
                    )
                    if measured is None:
                        return False
                    parts.setdefault(environment, []).append(measured)
            for environment, of_rounds in parts.items():
                figures = Measured.merged(of_rounds).figures
                few = next(too_few_verdicts(self._settings, environment, version, figures), None)
                if few is not None:
                    raise Unmeasurable(few)
        return True

    async def judge(self, run_id: str, plan: EvaluationPlan, compared: Comparison) -> GateEvidence:
        """Play until the decision is clear, and return it.

        Args:
            run_id: the run whose candidate is judged.
            plan: its evaluation plan.
            compared: both versions, without results.

        Raises:
            Unmeasurable: an evaluation has no results.
            UpturnError: the plan cannot be played.
        """
        tasks = await self._evaluations.check(run_id, plan, compared.horizon)
        warnings = [
            f"{environment}: all {sum(len(listed[environment]) for listed in tasks.rounds)} tasks decide each time; "
            "with more tasks than `draw`, each decision draws others"
            for environment in tasks.frozen
        ]
        compared = replace(compared, rounds=tasks.rounds, played=0, warnings=warnings)
        deciding = plan.model_copy(update={"seed": tasks.seed})
        while compared.played == 0 or not await asyncio.to_thread(is_clear, self._settings, compared):
            found = await self._pairs(run_id, deciding, compared, tasks.rounds[compared.played])
            pairs = {name: _joined(compared.pairs.get(name), pair) for name, pair in found.items()}
            compared = replace(compared, pairs=pairs, played=compared.played + 1)
        evidence = await asyncio.to_thread(decide, self._settings, compared)
        if evidence.promoted and tasks.guards:
            compared = replace(compared, guards=await self._pairs(run_id, plan, compared, tasks.guards))
            evidence = await asyncio.to_thread(decide, self._settings, compared)
        return await self._reported(run_id, plan, evidence, tasks.report) if evidence.promoted else evidence

    async def _reported(
        self, run_id: str, plan: EvaluationPlan, evidence: GateEvidence, tasks: dict[str, list[str]]
    ) -> GateEvidence:
        """Return the evidence with the results on the tasks that report; a failure there changes no decision."""
        report: dict[str, Report] = {}
        try:
            for environment, asked in tasks.items():
                champion = (
                    None
                    if self._shared
                    else await self._measured(run_id, plan, evidence.horizon, evidence.champion, environment, asked)
                )
                candidate = await self._measured(run_id, plan, evidence.horizon, evidence.candidate, environment, asked)
                report[environment] = Report(
                    tasks=len(asked),
                    champion=None if champion is None else champion.figures,
                    candidate=candidate.figures,
                )
        except (*BROKEN, Unavailable):
            raise
        except (Unmeasurable, UpturnError) as error:
            log.warning("run %s: the tasks that report have no results: %s", run_id, error)
            warnings = [*evidence.warnings, f"not all tasks that report have results: {error}"]
            return evidence.model_copy(update={"report": report, "warnings": warnings})
        return evidence.model_copy(update={"report": report})

    async def _pairs(
        self, run_id: str, plan: EvaluationPlan, compared: Comparison, tasks: dict[str, list[str]]
    ) -> dict[str, Pair]:
        """Return both versions' results on tasks of each environment; all play at the same time."""
        versions, horizon = (compared.champion, compared.candidate), compared.horizon
        for environment, asked in tasks.items():
            for version in versions:
                await self._evaluations.measure(run_id, version, environment, asked, plan, horizon, 0.0)

        async def pair(environment: str, asked: list[str]) -> Pair:
            champion, candidate = [
                await self._measured(run_id, plan, horizon, version, environment, asked) for version in versions
            ]
            return Pair(champion, candidate)

        return {environment: await pair(environment, asked) for environment, asked in tasks.items()}

    async def _measured(
        self, run_id: str, plan: EvaluationPlan, horizon: int, version: int, environment: str, tasks: list[str]
    ) -> Measured:
        """Return a version's results, however long that takes."""
        while True:
            result = await self._evaluations.measure(run_id, version, environment, tasks, plan, horizon, WAIT_S)
            if result is not None:
                return result


def _joined(before: Pair | None, after: Pair) -> Pair:
    """Return the results of earlier rounds and of one more."""
    if before is None:
        return after
    return Pair(
        Measured.merged((before.champion, after.champion)), Measured.merged((before.candidate, after.candidate))
    )
