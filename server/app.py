"""Puts the server together. It only wires: what each part does stands in its own module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

import migrations
from server.api import episodes, feedback, keys, operations, plays, policies, runs, schedule, served, shadow
from server.api.access import middleware
from server.api.access.authentication import Gate, needs, own_episode
from server.api.access.callers import Callers
from server.api.access.limits import Limits
from server.api.dialects import chat, completions, messages, responses
from server.api.served import retrieve
from server.api.state import State
from server.assembly import build_policy
from server.environments.instances import register_environments
from server.environments.plays import Plays
from server.environments.sessions import Sessions
from server.feedback.scorers import Scorers, make_scorers
from server.metrics import Metrics
from server.recording.episode import Episodes
from server.recording.privacy import Privacy
from server.recording.recorder import Recorder
from server.recording.retention import Retention
from server.recording.turns import Turns
from server.rewards.sources import RewardSources
from server.settings import Settings
from server.store.database import Database
from server.store.writer import Writer
from server.training.batches import Batches
from server.training.evaluations import Evaluations
from server.training.gate import PromotionGate
from server.training.learner_process import LearnerProcess
from server.training.live_watch import LiveWatch, check_settings
from server.training.runs import Runs
from server.training.schedule import Schedule
from server.versions.routing import Pointers
from server.versions.shadow import Shadow
from server.versions.swap import Swap


def create_app(settings: Settings, own_url: Callable[[], str] | None = None) -> FastAPI:
    """Return the application; starting it migrates the database and starts the engine.

    `own_url` tells, once the server listens, where the learner finds it; without it no learner is started.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        check_settings(settings.watch, settings.canary)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        database = Database(settings.resolved_database_url)
        await asyncio.to_thread(migrations.upgrade, database.writer)
        await asyncio.to_thread(register_environments, settings.environments)
        scorers_made = await asyncio.to_thread(make_scorers, settings.rewards, database)
        writer = Writer(database.writer)
        built = await asyncio.to_thread(build_policy, settings)
        engine, pointers = (
            built.engine,
            Pointers(
                settings.name,
                shared=built.weights == "full",
                share=settings.canary.share,
                by_key=settings.canary.by == "key",
            ),
        )
        metrics = Metrics()

        def ended(status: str, error_class: str | None) -> None:
            metrics.ended(status, error_class)
            scorers.wake()

        episodes_, recorder = Episodes(database, writer, ended), Recorder(writer, metrics.turn)
        privacy = Privacy(database, writer, episodes_)
        retention = Retention(privacy, settings.retention_days)
        callers = Callers(database, required=settings.keys_required)
        sessions = Sessions(
            writer, episodes_, settings.environments, settings.data_dir.absolute() / "logs" / "environments.log"
        )
        turns = Turns(engine, built.renderer, recorder, episodes_)
        plays_ = Plays(
            database=database,
            writer=writer,
            engine=engine,
            pointers=pointers,
            episodes=episodes_,
            sessions=sessions,
            turns=turns,
            concurrent=settings.concurrent_episodes,
        )
        swap = Swap(
            database=database,
            writer=writer,
            engine=engine,
            pointers=pointers,
            base=built.base,
            root=settings.data_dir,
            validate=built.validate,
            open_versions=episodes_.open_versions,
            held_versions=lambda: episodes_.held_versions() | turns.versions(),
            settings=settings.versions,
        )
        runs_ = Runs(database, writer, pointers, settings.learner.lease_s)
        metrics.training = lambda: runs_.training
        gate = PromotionGate(
            settings.gate,
            database=database,
            writer=writer,
            swap=swap,
            pointers=pointers,
            runs=runs_,
            evaluations=Evaluations(database, plays_, settings.name),
        )
        watch = LiveWatch(settings.watch, settings.canary, database=database, swap=swap, pointers=pointers)
        shadow_ = Shadow(
            settings.shadow,
            database=database,
            writer=writer,
            engine=engine,
            pointers=pointers,
            tokenizer=built.renderer.tokenizer,
        )
        learner = (
            LearnerProcess(
                settings.learner,
                runs_,
                data_dir=settings.data_dir.absolute(),
                key=callers.own_key("own learner", "learner"),
                placement=built.placement,
            )
            if settings.learner.start and own_url
            else None
        )
        schedule_ = Schedule(settings.schedule, database, writer, runs_, learner)
        episodes_.when_ended.append(schedule_.episode_scored)
        reward_sources = RewardSources(settings.rewards, database, writer)
        scorers = Scorers(scorers_made, database, writer, on_scored=schedule_.episode_scored, count=metrics.scored)
        app.state.parts = State(
            settings=settings,
            database=database,
            writer=writer,
            callers=callers,
            limits=Limits(),
            engine=engine,
            pointers=pointers,
            swap=swap,
            episodes=episodes_,
            privacy=privacy,
            sessions=sessions,
            metrics=metrics,
            renderer=built.renderer,
            turns=turns,
            plays=plays_,
            runs=runs_,
            schedule=schedule_,
            reward_sources=reward_sources,
            scorers=scorers,
            watch=watch,
            shadow=shadow_,
            placement=built.placement.message,
            gate=gate,
            batches=Batches(database, writer, plays_, pointers, gate),
        )
        try:
            await episodes_.fail_interrupted()
            await plays_.fail_interrupted()
            await reward_sources.start()
            await swap.start()
            gate.start()
            watch.start()
            shadow_.start()
            swap.residency.start()
            await schedule_.start()
            retention.start()
            scorers.start()
            if learner and own_url:
                learner.start(own_url())
            yield
        finally:
            await scorers.close()
            await gate.close()
            await watch.close()
            await shadow_.close()
            await swap.residency.close()
            await schedule_.close()
            retention.close()
            if learner:
                await learner.close()
            await plays_.close()
            await turns.drain()
            await sessions.close()
            await engine.close()
            writer.close()
            database.close()

    app = FastAPI(title="Upturn", lifespan=lifespan)
    middleware.install(app, settings.max_body_bytes)
    app.add_middleware(Gate)  # Outermost: who may not come in has no body read.
    for agents in (chat, completions, messages, responses):
        app.include_router(agents.router, dependencies=[own_episode])
    for admins in (feedback, plays, keys):
        app.include_router(admins.router, dependencies=[needs("admin")])
    # Their routes say what each needs.
    for mixed in (episodes, runs, schedule, policies, shadow, operations, retrieve):
        app.include_router(mixed.router)
    for foreign in served.routers:
        app.include_router(foreign)
    return app
