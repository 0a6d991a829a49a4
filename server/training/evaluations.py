"""Evaluations for the gate (step 13): plays of a version on a plan's tasks, reused from the record after a restart."""

from __future__ import annotations

import asyncio

import sqlalchemy as sa

from server.environments.plays import STOPPED, Plays, check_tasks
from server.store.database import Database
from server.store.tables import EpisodeRow, EvaluationRow, PlayRow, TurnRow
from server.training.data.curriculum import tasks_of_split
from server.training.gate_rule import Measured
from server.training.judging.audit.episodes import read_episodes
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
        of_play = sa.select(EpisodeRow.id).where(EpisodeRow.play_id == play_id, EpisodeRow.task.in_(request.tasks))
        with self._database.read() as session:
            evaluation = session.scalar(sa.select(EvaluationRow).where(EvaluationRow.play_id == play_id))
            episodes = read_episodes(session, play_id, request.tasks, tools=request.tools)
            latency_ms = session.scalar(
                sa.select(sa.func.avg(TurnRow.duration_ms)).where(TurnRow.episode_id.in_(of_play))
            )
        by_task: dict[str, list[bool]] = {}
        for episode in episodes:
            if episode.success is not None:
                by_task.setdefault(episode.task, []).append(episode.success)
        if evaluation is None or evaluation.policy_version != version:
            what = "no episode has a verdict" if not by_task else f"not every answer came from version {version}"
            raise Unmeasurable(f"evaluation {play_id}: {what}")
        return Measured(
            (evaluation.id,),
            by_task,
            len(request.tasks) * request.group_size,
            sum(episode.steps for episode in episodes),
            sum(episode.invalid_steps for episode in episodes),
            calls=sum(episode.calls for episode in episodes),
            bad_calls=sum(episode.bad_calls for episode in episodes),
            latency_ms=latency_ms,
            audited=tuple(episodes),
        )


def last_horizon(schedule: HorizonSchedule) -> int:
    """Return the last horizon of a schedule."""
    return schedule.horizon if schedule.kind == "fixed" else schedule.rounds[-1]
