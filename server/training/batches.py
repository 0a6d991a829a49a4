"""The batch of a learner step: play its tasks, select episodes, lease, and record the acknowledgement (steps 6 and 7).

A batch is identified by (run, step): repeated requests return the same one, so a restarted learner continues with it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.environments.plays import Plays
from server.errors import Conflict, NotFound, Unavailable
from server.store.chunks import chunks
from server.store.database import Database, new_id
from server.store.tables import BatchRow, EpisodeRow, MetricRow, PlayRow, RunEpisodeRow, RunRow
from server.store.writer import Writer
from server.training.budget import end_if_spent
from server.training.data.branches import samples
from server.training.data.curriculum import record_of, tasks_of, tasks_of_step
from server.training.data.episode_order import place
from server.training.data.live_episodes import oldest_live
from server.training.data.resampling import further_plays, groups_of, next_tasks
from server.training.data.selection import Selection, select
from server.training.gate import PromotionGate
from server.training.run_states import SLOT, get_run, hold
from server.versions.routing import Pointers
from upturn.wire import BatchAck, BatchRequest, BatchView, PlayPlan, PlayRequest, PlayView, RunConfig, Sample

ATTEMPT_SEEDS = 1_000_003  # A campaign that went back repeats its global steps, and plays them with other seeds.
WAIT_S = 10.0  # Maximum wait of one request for the play; the learner then asks again.


class Batches:
    """Gathers and leases batches."""

    def __init__(
        self, database: Database, writer: Writer, plays: Plays, pointers: Pointers, gate: PromotionGate
    ) -> None:
        self._database = database
        self._writer = writer
        self._gate = gate
        self._plays = plays
        self._pointers = pointers
        self._one_at_a_time = asyncio.Lock()

    async def lease(self, request: BatchRequest) -> BatchView:
        """Return the batch of a step: leased with its samples, or still gathering.

        Raises:
            Conflict: the learner does not hold the run, the step is already trained, or a step to replay is untrained.
            Unavailable: the play for this batch failed; the next request starts another.
        """
        async with self._one_at_a_time:
            run, batch = await self._writer.write(lambda session: _find_or_make(session, request))
            config = RunConfig.model_validate(run.config)
            if batch.state == "trained":
                if request.replay:
                    samples_again = await asyncio.to_thread(self._samples, batch.id, config)
                    return _view(batch, None, samples_again).model_copy(update={"state": "leased"})
                raise Conflict(f"step {request.step} of {request.run_id} is already trained", code="batch_trained")
            if request.replay:
                raise Conflict(f"step {request.step} of {request.run_id} is not trained yet", code="batch_not_trained")
            first = batch.step == 0 and batch.state == "gathering" and batch.play_id is None
            if first and config.evaluation is not None and not await self._gate.ready(request.run_id, WAIT_S):
                return _view(batch, None, []).model_copy(update={"ready": False})
            if request.only_ready:
                return _view(batch, None, [])
            if batch.state == "gathering" and config.play is not None and batch.play_id is None:
                batch.play_id = await self._start_play(run, config, config.play, batch)
            if request.prepare:
                return _view(batch, None, [])
        play, further = None, list[str]()
        if batch.play_id is not None:
            further = await asyncio.to_thread(self._further, batch.id)
            play = await self._plays.view(
                further[-1] if further else batch.play_id,
                results=False,
                wait_s=WAIT_S if batch.state == "gathering" else 0,
            )
        if batch.state == "gathering":
            if play is not None and play.state == "running":
                return _view(batch, play, [])
            if play is not None and play.state != "done":
                failed = play.id
                await self._writer.write(lambda session: _discard(session, batch.id, failed))
                raise Unavailable(f"the play of step {request.step} {play.state}: {play.error}", code="play_failed")
            chosen = await asyncio.to_thread(self._select, config, batch)
            if await self._play_further(run, config, batch, chosen, further):
                return _view(batch, play, [])
            await self._writer.write(lambda session: _record(session, batch.id, chosen, request.learner))
        batch = await self._get(batch.id)
        return _view(batch, play, await asyncio.to_thread(self._samples, batch.id, config))

    async def acknowledge(self, batch_id: str, ack: BatchAck) -> None:
        """Record that a batch was trained (with lineage and metrics) or returned.

        Raises:
            NotFound: no such batch.
            Conflict: the learner does not hold the run, or the batch was trained differently.
        """

        def record(session: Session) -> None:
            batch = session.get(BatchRow, batch_id)
            if batch is None:
                raise NotFound(f"no batch {batch_id!r}", code="batch_not_found")
            run = hold(session, batch.run_id, ack.learner)
            if batch.state == "trained":
                if (ack.state, ack.policy_version) == ("trained", batch.policy_version):
                    return
                raise Conflict(f"batch {batch_id} is already trained", code="batch_trained")
            if ack.state == "returned":
                return  # The next learner that asks for this step gets the same episodes.
            batch.state, batch.policy_version = "trained", ack.policy_version
            run.step = batch.step + 1
            for trained in ack.episodes:
                session.execute(
                    sa.update(RunEpisodeRow)
                    .where(
                        RunEpisodeRow.batch_id == batch_id,
                        RunEpisodeRow.episode_id == trained.episode_id,
                    )
                    .values(advantage=trained.advantage, weight=trained.weight)
                )
            measured = {name: value for name, value in batch.stats.items() if isinstance(value, int | float)}
            measured |= {f"episodes:{name}"[:100]: n for name, n in batch.stats.get("by_environment", {}).items()}
            now = time.time()
            for name, value in {**ack.metrics, **measured}.items():
                session.merge(MetricRow(run_id=batch.run_id, step=batch.step, name=name, value=value, created_at=now))
            end_if_spent(session, run, now)

        await self._writer.write(record)

    async def _start_play(self, run: RunRow, config: RunConfig, plan: PlayPlan, batch: BatchRow) -> str:
        tasks = await asyncio.to_thread(self._tasks, run, config, plan, batch)
        play_id = await self._plays.start(_play_request(run, config, plan, batch, tasks))
        await self._change(batch.id, play_id=play_id)
        return play_id

    async def _play_further(
        self, run: RunRow, config: RunConfig, batch: BatchRow, chosen: Selection, further: list[str]
    ) -> bool:
        """Play other tasks in place of groups without variance; return whether the batch has to wait for them."""
        plan = config.play
        if plan is None or not plan.resample:
            return False
        async with self._one_at_a_time:
            if await asyncio.to_thread(self._further, batch.id) != further:
                return True  # A concurrent request has started them.
            tasks = await asyncio.to_thread(self._next_tasks, run, config, batch, chosen)
            if tasks:
                await self._plays.start(_play_request(run, config, plan, batch, tasks), batch_id=batch.id)
        return bool(tasks)

    def _next_tasks(self, run: RunRow, config: RunConfig, batch: BatchRow, chosen: Selection) -> dict[str, list[str]]:
        with self._database.read() as session:
            return next_tasks(session, run, config, batch, chosen)

    def _further(self, batch_id: str) -> list[str]:
        with self._database.read() as session:
            return [play.id for play in further_plays(session, batch_id)]

    def _tasks(self, run: RunRow, config: RunConfig, plan: PlayPlan, batch: BatchRow) -> dict[str, list[str]]:
        with self._database.read() as session:
            record = record_of(session, run, batch.step) if plan.curriculum == "learnability" else {}
        return tasks_of_step(plan, tasks_of(plan), config.seed, run.first_step + batch.step, record)

    def _select(self, config: RunConfig, batch: BatchRow) -> Selection:
        with self._database.read() as session:
            oldest = session.get_one(RunRow, batch.run_id).oldest_live
            further = further_plays(session, batch.id)
            chosen = select(
                session,
                config,
                run_id=batch.run_id,
                play_id=batch.play_id,
                further=[play.id for play in further],
                head=self._pointers.head,
                oldest=oldest_live(session, config) if oldest is None else oldest,
                now=time.time(),
            )
            if batch.play_id is not None:
                count = groups_of(further).total()
                first = groups_of([session.get_one(PlayRow, batch.play_id)]).total()
                chosen.stats |= {"groups_played": first + count, "groups_replaced": count}
            return chosen

    async def _change(self, batch_id: str, **values: Any) -> None:
        change = sa.update(BatchRow).where(BatchRow.id == batch_id).values(**values)
        await self._writer.write(lambda session: session.execute(change))

    async def _get(self, batch_id: str) -> BatchRow:
        def read() -> BatchRow:
            with self._database.read() as session:
                return session.get_one(BatchRow, batch_id)

        return await asyncio.to_thread(read)

    def _samples(self, batch_id: str, config: RunConfig) -> list[Sample]:
        with self._database.read() as session:
            chosen = session.execute(
                sa.select(EpisodeRow, RunEpisodeRow.reward)
                .join(RunEpisodeRow, RunEpisodeRow.episode_id == EpisodeRow.id)
                .where(RunEpisodeRow.batch_id == batch_id)
            ).all()
            return samples(
                session,
                [episode.id for episode in sorted((episode for episode, _ in chosen), key=place)],
                by_prompt=config.traits.by_prompt,
                rewards={episode.id: reward for episode, reward in chosen if reward is not None},
            )


def _play_request(
    run: RunRow, config: RunConfig, plan: PlayPlan, batch: BatchRow, tasks: dict[str, list[str]]
) -> PlayRequest:
    (environment, listed), *also = tasks.items()
    return PlayRequest(
        environment=environment,
        tasks=listed,
        also=dict(also),
        group_size=plan.group_size,
        horizon=batch.horizon,
        policy=None,
        agent=plan.agent,
        sampling=plan.sampling,
        seed=(config.seed + run.first_step + batch.step + run.attempt * ATTEMPT_SEEDS) % 2**31,
        purpose="training",
    )


def _discard(session: Session, batch_id: str, play_id: str) -> None:
    """Take a play that failed from its batch, so that the next request starts another."""
    session.execute(
        sa.update(BatchRow).where(BatchRow.id == batch_id, BatchRow.play_id == play_id).values(play_id=None)
    )
    session.execute(sa.update(PlayRow).where(PlayRow.id == play_id).values(batch_id=None))


def _find_or_make(session: Session, request: BatchRequest) -> tuple[RunRow, BatchRow]:
    """Return the run, which the learner holds, and the step's batch, which is created if needed.

    A batch to replay may also be of an earlier run of the same campaign.
    """
    run = get_run(session, request.run_id)
    if not (request.replay and run.campaign_id is not None and _held(session, request.learner) == run.campaign_id):
        run = hold(session, request.run_id, request.learner)
    batch = session.scalar(sa.select(BatchRow).where(BatchRow.run_id == request.run_id, BatchRow.step == request.step))
    if batch is None and request.replay:
        raise Conflict(f"step {request.step} of {request.run_id} has no batch", code="batch_not_trained")
    if batch is None:
        batch = BatchRow(
            id=new_id("batch"),
            run_id=request.run_id,
            step=request.step,
            horizon=request.horizon,
            state="gathering",
            stats={},
            created_at=time.time(),
        )
        session.add(batch)
        session.flush()
    return run, batch


def _held(session: Session, learner: str) -> str | None:
    """Return the campaign of the run that a learner holds."""
    return session.scalar(sa.select(RunRow.campaign_id).where(RunRow.slot == SLOT, RunRow.learner == learner))


def _record(session: Session, batch_id: str, chosen: Selection, learner: str) -> None:
    """Lease the batch with these episodes, unless a concurrent request already has; the learner still holds the run."""
    batch = session.get_one(BatchRow, batch_id)
    if batch.state != "gathering":
        return
    hold(session, batch.run_id, learner)  # Otherwise another run may have taken them in the meantime.
    batch.stats, batch.state = chosen.stats, "leased"
    # Skip episodes erased since the selection.
    for ids in chunks(chosen.episode_ids):
        for episode_id in session.scalars(sa.select(EpisodeRow.id).where(EpisodeRow.id.in_(ids))).all():
            session.add(
                RunEpisodeRow(
                    run_id=batch.run_id, episode_id=episode_id, batch_id=batch_id, reward=chosen.rewards[episode_id]
                )
            )


def _view(batch: BatchRow, play: PlayView | None, leased: list[Sample]) -> BatchView:
    counts = {"episodes": 0, "groups": 0, "groups_without_variance": 0, "groups_incomplete": 0, "errors": 0}
    means = dict.fromkeys(("success_rate", "mean_reward", "truncated_share", "mean_turns"))
    return BatchView(
        id=batch.id,
        run_id=batch.run_id,
        step=batch.step,
        horizon=batch.horizon,
        state=batch.state,  # type: ignore[arg-type]
        play=play,
        samples=leased,
        **{**counts, **means, **batch.stats},
    )
