"""Evaluations for the gate (step 13): plays of a version on a plan's tasks, reused from the record after a restart."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import sqlalchemy as sa

from server.environments.plays import STOPPED, Plays, check_tasks
from server.rendering.tool_calls import CALL_OPEN
from server.store.database import Database
from server.store.tables import EpisodeRow, EvaluationRow, PlayRow, StepRow, TurnRow
from server.training.data.curriculum import tasks_of_split
from server.training.gate_rule import Measured
from server.training.judging.evaluation_tasks import EvaluationTasks, evaluation_tasks
from upturn.wire import EvaluationPlan, HorizonSchedule, PlayRequest

ATTEMPTS = 3  # Plays of one evaluation that server restarts may interrupt before it counts as failed.


class Unmeasurable(Exception):
    """An evaluation can give no results; the message says why."""


class Evaluations:
    """Plays evaluation plans: each version once per environment, round and run."""

    def __init__(self, database: Database, plays: Plays, name: str) -> None:
        self._database = database
        self._plays = plays
        self._name = name
        self._one_at_a_time = asyncio.Lock()

    async def check(self, run_id: str, plan: EvaluationPlan, horizon: int) -> EvaluationTasks:
        """Return the tasks of a run's evaluation; refuse a plan that cannot be played.

        Raises:
            NotFound: an environment, split or task does not exist.
            BadRequest: an environment has too few tasks.
        """

        def read() -> EvaluationTasks:
            chosen = evaluation_tasks(plan, run_id)
            for environment, listed in (*plan.tasks.items(), *plan.guards.items()):
                asked = tasks_of_split(environment, listed)[:1] if isinstance(listed, str) else listed
                check_tasks(self._request(plan, horizon, environment, 0, asked))
            return chosen

        return await asyncio.to_thread(read)

    async def measure(
        self,
        run_id: str,
        version: int,
        environment: str,
        tasks: list[str],
        plan: EvaluationPlan,
        horizon: int,
        wait_s: float,
    ) -> Measured | None:
        """Return a version's results on tasks, or None if the play is still running after `wait_s` seconds.

        Raises:
            Unmeasurable: the play failed, was cancelled, was interrupted too often, or other versions answered in it.
        """
        request = self._request(plan, horizon, environment, version, tasks)
        async with self._one_at_a_time:
            play_id = await self._find(run_id, request)
            if play_id is None:
                play_id = await self._plays.start(request, run_id)
        view = await self._plays.view(play_id, results=False, wait_s=wait_s)
        if view.state == "running":
            return None
        if view.state != "done":
            raise Unmeasurable(f"{environment}: the evaluation of version {version} {view.state}: {view.error}")
        return await asyncio.to_thread(self._results, play_id, version, request)

    async def _find(self, run_id: str, request: PlayRequest) -> str | None:
        """Return the run's play for a request, running or ended; None if one must be started."""
        wanted = set(request.tasks)

        def read() -> list[PlayRow]:
            with self._database.read() as session:
                rows = session.scalars(sa.select(PlayRow).where(PlayRow.run_id == run_id).order_by(PlayRow.id))
                return [
                    row
                    for row in rows
                    if (row.request["policy"], row.request["environment"]) == (request.policy, request.environment)
                    and wanted.issubset(row.request["tasks"])  # A play of an older server has all rounds.
                ]

        plays = await asyncio.to_thread(read)
        lost = [row.error == STOPPED or (row.state == "running" and not self._plays.playing(row.id)) for row in plays]
        if plays and not lost[-1]:
            return plays[-1].id
        if sum(lost) >= ATTEMPTS:
            raise Unmeasurable(
                f"{request.environment}: the evaluation of {request.policy} was interrupted {ATTEMPTS} times"
            )
        return None

    def _request(
        self, plan: EvaluationPlan, horizon: int, environment: str, version: int, tasks: list[str]
    ) -> PlayRequest:
        return PlayRequest(
            environment=environment,
            tasks=tasks,
            group_size=plan.repetitions,
            horizon=horizon,
            policy=f"{self._name}@{version}",
            tools=plan.tools,
            sampling=plan.sampling,
            seed=plan.seed,
            trainable=False,
            purpose="evaluation",
        )

    def _results(self, play_id: str, version: int, request: PlayRequest) -> Measured:
        asked = (EpisodeRow.play_id == play_id, EpisodeRow.task.in_(request.tasks))
        of_play = sa.select(EpisodeRow.id).where(*asked)
        invalid = sa.case((StepRow.info["valid"].as_boolean().is_(False), 1), else_=0)
        with self._database.read() as session:
            evaluation = session.scalar(sa.select(EvaluationRow).where(EvaluationRow.play_id == play_id))
            verdicts = session.execute(
                sa.select(EpisodeRow.task, EpisodeRow.success)
                .where(*asked, EpisodeRow.success.is_not(None))
                .order_by(EpisodeRow.id)
            ).all()
            steps, invalid_steps = session.execute(
                sa.select(sa.func.count(), sa.func.sum(invalid)).where(StepRow.episode_id.in_(of_play))
            ).one()
            latency_ms = session.scalar(
                sa.select(sa.func.avg(TurnRow.duration_ms)).where(TurnRow.episode_id.in_(of_play))
            )
            answers = (
                session.scalars(sa.select(TurnRow.answer).where(TurnRow.episode_id.in_(of_play)))
                if request.tools
                else ()
            )
            well_called = [good for answer in answers if (good := calls_well(answer)) is not None]
        if evaluation is None or evaluation.policy_version != version:
            what = "no episode has a verdict" if not verdicts else f"not every answer came from version {version}"
            raise Unmeasurable(f"evaluation {play_id}: {what}")
        by_task: dict[str, list[bool]] = {}
        for task, success in verdicts:
            by_task.setdefault(task or "", []).append(bool(success))
        return Measured(
            (evaluation.id,),
            by_task,
            len(request.tasks) * request.group_size,
            steps,
            invalid_steps or 0,
            calls=len(well_called),
            bad_calls=well_called.count(False),
            latency_ms=latency_ms,
        )


def calls_well(answer: dict[str, Any]) -> bool | None:
    """Return whether an answer's tool calls can be parsed and have named arguments; None if it calls no tool."""
    calls = answer.get("tool_calls") or []
    if not calls:
        return False if CALL_OPEN in (answer.get("content") or "") else None
    try:
        return all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)
    except ValueError:
        return False


def last_horizon(schedule: HorizonSchedule) -> int:
    """Return the last horizon of a schedule."""
    return schedule.horizon if schedule.kind == "fixed" else schedule.rounds[-1]
