"""Plays: the server plays tasks with a policy. Every episode runs at its own pace; there are no rounds."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.orm import Session

from env_adapters.hosting.messages import class_of, text_of
from server.engines.protocol import Engine
from server.environments.instances import find_environment
from server.environments.open_environments import OpenEnvironments
from server.environments.players import Players
from server.errors import BadRequest, Conflict, ContextTooLong, EnvironmentFailed, NotFound, UpturnError
from server.recording.episode import Episode
from server.recording.episodes import Episodes
from server.recording.transcript import mean
from server.recording.turns import Turns
from server.store.database import Database, new_id
from server.store.tables import EpisodeRow, EvaluationRow, PlayRow, PolicyVersionRow, StepRow, TurnRow
from server.store.writer import Writer
from server.versions.routing import Pointers
from upturn.wire import EpisodeOpen, PlayedEpisode, PlayRequest, PlayView

log = logging.getLogger("upturn.plays")
STOPPED = "the server stopped"  # Error of a play that its server did not finish.


@dataclass(slots=True)
class Play:
    """A play in progress."""

    id: str
    request: PlayRequest
    task: asyncio.Task[None] | None = None
    places: asyncio.Semaphore | None = None
    """Bounds its own episodes at once, if its request does."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the task runs: a task that is canceled before would end without recording it."""


class Plays:
    """Starts plays and reports their progress."""

    def __init__(
        self,
        *,
        database: Database,
        writer: Writer,
        engine: Engine,
        pointers: Pointers,
        episodes: Episodes,
        environments: OpenEnvironments,
        turns: Turns,
        concurrent: int,
    ) -> None:
        self._database = database
        self._writer = writer
        self._engine = engine
        self._pointers = pointers
        self._episodes = episodes
        self._environments = environments
        self._players = Players(engine, pointers, turns, environments)
        self._slots = asyncio.Semaphore(concurrent)
        self._running: dict[str, Play] = {}

    async def start(self, request: PlayRequest, run_id: str | None = None, batch_id: str | None = None) -> str:
        """Start a play, optionally an evaluation for a run, or a further play of a batch, and return its id.

        Raises:
            NotFound: the environment, a task or the model does not exist.
            BadRequest: a task is listed twice, or the play asks for tools that it cannot use.
        """
        if request.policy is not None:
            self._pointers.resolve(request.policy, self._engine)
        await asyncio.to_thread(check_tasks, request)
        play = Play(new_id("play"), request)
        if request.at_once is not None:
            play.places = asyncio.Semaphore(request.at_once)
        row = PlayRow(
            id=play.id,
            state="running",
            request=request.model_dump(mode="json"),
            run_id=run_id,
            batch_id=batch_id,
            created_at=time.time(),
        )
        await self._writer.write(lambda session: session.add(row))
        self._running[play.id] = play
        play.task = asyncio.create_task(self._run(play))
        return play.id

    def playing(self, play_id: str) -> bool:
        """Return whether a play is in progress in this process."""
        return play_id in self._running

    async def view(self, play_id: str, *, results: bool = True, wait_s: float = 0.0) -> PlayView:
        """Return a play's progress, after waiting up to `wait_s` for its end."""
        play = self._running.get(play_id)
        if play is not None and play.task is not None and wait_s > 0:
            await asyncio.wait([play.task], timeout=wait_s)
        return await asyncio.to_thread(self._read, play_id, results)

    async def cancel(self, play_id: str, reason: str = "cancelled") -> None:
        """Stop a play; its open episodes end with the status `closed`.

        Raises:
            Conflict: the play is not running.
        """
        play = self._running.get(play_id)
        if play is None or play.task is None:
            raise Conflict(f"play {play_id} is not running", code="play_ended")
        await play.begun.wait()
        play.task.cancel(reason)
        await asyncio.wait([play.task])

    async def close(self) -> None:
        """Stop all plays."""
        for play_id in list(self._running):
            await self.cancel(play_id, STOPPED)

    async def fail_interrupted(self) -> None:
        """After a restart: mark the plays of the previous process as failed."""
        change = (
            sa.update(PlayRow)
            .where(PlayRow.state == "running")
            .values(state="failed", error=STOPPED, ended_at=time.time())
        )
        await self._writer.write(lambda session: session.execute(change))

    async def _run(self, play: Play) -> None:
        play.begun.set()
        state, error = "done", None
        tasks = [
            asyncio.create_task(self._play_episode(play, environment, task, repetition))
            for repetition in range(play.request.group_size)
            for environment, listed in play.request.all_tasks.items()
            for task in listed
        ]
        try:
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if failures:
                state, error = "failed", "; ".join(sorted({f"{type(f).__name__}: {f}" for f in failures}))
                log.error("%s failed", play.id, exc_info=failures[0])
        except asyncio.CancelledError as cancelled:
            state, error = "cancelled", str(cancelled.args[0]) if cancelled.args else "cancelled"
            await asyncio.wait(tasks)
        finally:
            try:
                await self._writer.write(lambda session: _finish(session, play, state, error))
            finally:
                del self._running[play.id]

    async def _play_episode(self, play: Play, environment: str, task: str, repetition: int) -> None:
        """Play one episode to completion. A failure is recorded in its row and stops no other episode."""
        request = play.request
        async with play.places or nullcontext(), self._slots:
            try:
                opened, reset = await self._environments.prepare(environment, task, request.seed, patient=True)
            except EnvironmentFailed as error:
                log.warning("an episode of %s could not start: %s", play.id, error)
                await self._failed(await self._open(play, environment, task, repetition), error.__cause__ or error)
                return
            try:
                episode = await self._open(play, environment, task, repetition)
            except BaseException:
                self._environments.discard(opened)
                raise
            self._environments.attach(episode, opened, leased=False)
            await episode.opened()
            try:
                await self._players.play(request, episode, reset, f"{task}/{request.seed}/{repetition}")
            except ContextTooLong:
                await self._episodes.end(episode, "truncated", reason="context", success=False)
            except Exception as error:  # The episode's row holds the failure; an unexpected one also fails the play.
                log.warning("episode %s of %s failed: %s", episode.id, play.id, error)
                await self._failed(episode, error)
                if not isinstance(error, UpturnError):
                    raise
            except asyncio.CancelledError:
                await self._episodes.end(episode, "closed", reason="the play was cancelled")
                raise

    async def _open(self, play: Play, environment: str, task: str, repetition: int) -> Episode:
        request = play.request
        version = self._pointers.resolve(request.policy or f"{self._pointers.name}@head", self._engine)
        prefix = f"{environment}:" if request.also else ""  # Two environments may have tasks with the same name.
        episode, _ = await self._episodes.open(
            EpisodeOpen(
                environment=environment,
                task=task,
                seed=request.seed,
                group=f"{play.id}:{prefix}{task}",
                trainable=request.trainable and request.agent != "random",
            ),
            policy_version=version,
            horizon=request.horizon,
            play_id=play.id,
            repetition=repetition,
            purpose=request.purpose,
        )
        return episode

    async def _failed(self, episode: Episode, error: BaseException) -> None:
        await episode.opened()
        await self._episodes.end(episode, "error", error_class=class_of(error), reason=text_of(error))

    def _read(self, play_id: str, results: bool) -> PlayView:
        with self._database.read() as session:
            row = session.get(PlayRow, play_id)
            if row is None:
                raise NotFound(f"no play {play_id!r}", code="play_not_found")
            played = _played(session, play_id)
            sampled = session.scalar(
                sa.select(sa.func.sum(TurnRow.completion_tokens))
                .join(EpisodeRow, EpisodeRow.id == TurnRow.episode_id)
                .where(EpisodeRow.play_id == play_id)
            )
        request = PlayRequest.model_validate(row.request)
        finished = [p for p in played if p.status != "open"]
        valid = [p for p in finished if p.success is not None]
        return PlayView(
            id=row.id,
            state=row.state,  # type: ignore[arg-type]
            error=row.error,
            environment="+".join(request.all_tasks),
            horizon=request.horizon,
            purpose=request.purpose,
            finished=len(finished),
            episodes=sum(map(len, request.all_tasks.values())) * request.group_size,
            succeeded=sum(p.success is True for p in valid),
            errors=sum(p.status == "error" for p in finished),
            sampled_tokens=sampled or 0,
            success_rate=mean([float(bool(p.success)) for p in valid]),
            mean_reward=mean([p.reward for p in valid if p.reward is not None]),
            wall_s=(row.ended_at or time.time()) - row.created_at,
            results=finished if results else [],
        )


def check_tasks(request: PlayRequest) -> None:
    """Reject unknown tasks before anything starts. Reads the environment's tasks: not for the event loop.

    Raises:
        NotFound: an environment or task does not exist.
        BadRequest: a task is listed twice, or `tools` is set without a policy or without tools to call.
    """
    for environment, listed in request.all_tasks.items():
        spec = find_environment(environment)
        if request.tools and (request.agent != "policy" or not spec.tools):
            raise BadRequest("tools need a policy as agent and an environment that has tools", param="tools")
        known = {task for split in spec.splits() for task in spec.tasks(split)}
        unknown = [task for task in listed if task not in known]
        if unknown:
            raise NotFound(f"{environment} has no task {unknown[0]!r}", param="tasks", code="task_not_found")
        if len(set(listed)) != len(listed):
            raise BadRequest("a task is listed twice; group_size repeats tasks", param="tasks")


def _played(session: Session, play_id: str) -> list[PlayedEpisode]:
    episodes = sa.select(EpisodeRow.id).where(EpisodeRow.play_id == play_id)
    rewards = (
        sa.select(StepRow.episode_id, sa.func.sum(StepRow.reward).label("reward"))
        .where(StepRow.episode_id.in_(episodes))
        .group_by(StepRow.episode_id)
        .subquery()
    )
    turns = (
        sa.select(
            TurnRow.episode_id, sa.func.count().label("turns"), sa.func.max(TurnRow.policy_version).label("version")
        )
        .where(TurnRow.episode_id.in_(episodes))
        .group_by(TurnRow.episode_id)
        .subquery()
    )
    query = (
        sa.select(EpisodeRow, rewards.c.reward, turns.c.turns, turns.c.version)
        .outerjoin(rewards, rewards.c.episode_id == EpisodeRow.id)
        .outerjoin(turns, turns.c.episode_id == EpisodeRow.id)
        .where(EpisodeRow.play_id == play_id)
        .order_by(EpisodeRow.id)
    )
    return [
        PlayedEpisode(
            episode_id=row.id,
            task=row.task or "",
            group=row.group_key,
            status=row.status,
            reward=reward,
            success=row.success,
            turns=count or 0,
            policy_version=version,
        )
        for row, reward, count, version in session.execute(query)
    ]


def _finish(session: Session, play: Play, state: str, error: str | None) -> None:
    session.execute(
        sa.update(PlayRow).where(PlayRow.id == play.id).values(state=state, error=error, ended_at=time.time())
    )
    if play.request.purpose != "evaluation" or state != "done":
        return
    valid = [p for p in _played(session, play.id) if p.success is not None]
    versions = {p.policy_version for p in valid if p.policy_version is not None}
    if len(versions) == 1 and session.get(PolicyVersionRow, version := versions.pop()) is not None:
        session.add(
            EvaluationRow(
                id=new_id("eval"),
                play_id=play.id,
                policy_version=version,
                environment=play.request.environment,
                horizon=play.request.horizon,
                episodes=len(valid),
                created_at=time.time(),
                success_rate=mean([float(bool(p.success)) for p in valid]),
                mean_reward=mean([p.reward for p in valid if p.reward is not None]),
            )
        )
