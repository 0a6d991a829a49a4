"""The parts of a server and their construction. Building starts nothing except the database's writer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.api.access.callers import Callers
from server.api.access.draining import Draining
from server.api.access.limits import Limits
from server.assembly import build_policy
from server.engines.protocol import Engine
from server.environments.instances import register_environments
from server.environments.open_environments import OpenEnvironments
from server.environments.plays import Plays
from server.feedback.scorers import Scorers, make_scorers
from server.log_files import LogFiles
from server.metrics import Metrics
from server.notifications.notifications import Notifications, make_targets
from server.recording.episodes import Episodes
from server.recording.idle import IdleEpisodes
from server.recording.people.opinions import Opinions
from server.recording.privacy import Privacy
from server.recording.reading.index_file import NAME as INDEX
from server.recording.reading.indexer import Indexer
from server.recording.recorder import Recorder
from server.recording.retention import Retention
from server.recording.turns import Turns
from server.rendering.render import Renderer
from server.rewards.sources import RewardSources
from server.settings import Settings
from server.store.database import Database
from server.store.statistics import Statistics
from server.store.writer import Writer
from server.telemetry.otlp import Otlp
from server.telemetry.position import Position
from server.telemetry.tracker import Tracker
from server.training.batches import Batches
from server.training.evaluations import Evaluations
from server.training.gate import PromotionGate
from server.training.learner_process import LearnerProcess
from server.training.live_watch import LiveWatch, check_settings
from server.training.rehearsal.checks import Checks
from server.training.rehearsal.environments import Trial
from server.training.rehearsal.learning import Learning
from server.training.rehearsal.rehearsals import Rehearsals
from server.training.run_steps import LearnerSteps
from server.training.runs import Runs
from server.training.scheduling.schedule import Schedule
from server.versions.champion import Champions
from server.versions.publish import Publisher
from server.versions.routing import Pointers
from server.versions.serving import Serving
from server.versions.shadow import Shadow
from server.wiring.disk import disk_check
from server.wiring.store import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a server, in the order of the straight line."""

    settings: Settings
    metrics: Metrics
    store: Store
    database: Database
    writer: Writer
    callers: Callers
    limits: Limits
    draining: Draining
    engine: Engine
    renderer: Renderer
    pointers: Pointers
    placement: str
    """GPU assignment of engine and learner."""
    episodes: Episodes
    turns: Turns
    privacy: Privacy
    index: Indexer
    opinions: Opinions
    statistics: Statistics
    retention: Retention
    idle: IdleEpisodes
    environments: OpenEnvironments
    plays: Plays
    serving: Serving
    publisher: Publisher
    champions: Champions
    shadow: Shadow
    runs: Runs
    steps: LearnerSteps
    gate: PromotionGate
    batches: Batches
    watch: LiveWatch
    learner: LearnerProcess | None
    schedule: Schedule
    reward_sources: RewardSources
    scorers: Scorers
    notifications: Notifications
    rehearsals: Rehearsals
    otlp: Otlp
    tracker: Tracker
    log_files: LogFiles


async def build(settings: Settings, store: Store, *, learns: bool) -> Parts:
    """Build the parts.

    Args:
        settings: the settings.
        store: the opened store.
        learns: whether this server can start a learner; `learner.start` decides whether it does.

    Raises:
        SettingsError: the settings contradict each other, or name something that cannot be loaded.
    """
    # The foundation: may take long, so it runs in threads.
    check_settings(settings.watch, settings.canary)
    data_dir = settings.data_dir.absolute()
    database = store.database
    await asyncio.to_thread(register_environments, settings.environments)
    scorers_made = await asyncio.to_thread(make_scorers, settings.rewards, database)
    writer = Writer(database.writer)
    built = await asyncio.to_thread(build_policy, settings)
    engine, metrics = built.engine, Metrics()
    callers = Callers(database, required=settings.keys_required, episode_keys_reward=settings.rewards.episode_keys)

    # Recording and serving.
    def ended(status: str, error_class: str | None) -> None:
        metrics.ended(status, error_class)
        scorers.wake()

    pointers = Pointers(
        settings.name,
        aliases=tuple(settings.aliases),
        shared=built.weights == "full",
        share=settings.canary.share,
        by_key=settings.canary.by == "key",
    )
    episodes = Episodes(database, writer, ended)
    index = Indexer(database, data_dir / INDEX)
    episodes.when_changed.append(index.touch)
    turns = Turns(engine, built.renderer, Recorder(writer, metrics.turn, index.touch), episodes)
    privacy = Privacy(database, writer, episodes)
    privacy.when_erased.append(index.forget)
    environments = OpenEnvironments(writer, episodes, settings.environments, data_dir / "logs" / "environments.log")
    plays = Plays(
        database=database,
        writer=writer,
        engine=engine,
        pointers=pointers,
        episodes=episodes,
        environments=environments,
        turns=turns,
        concurrent=settings.concurrent_episodes,
    )

    # Versions.
    serving = Serving(
        settings.versions,
        database=database,
        writer=writer,
        engine=engine,
        pointers=pointers,
        base=built.base,
        root=settings.data_dir,
        open_versions=episodes.open_versions,
        held_versions=lambda: episodes.held_versions() | turns.versions(),
    )
    publisher, champions = Publisher(serving, built.validate), Champions(serving)
    shadow = Shadow(
        settings.shadow,
        database=database,
        writer=writer,
        engine=engine,
        pointers=pointers,
        renderer=built.renderer,
    )

    # Training.
    runs = Runs(database, writer, pointers, settings.learner.lease_s, precision=lambda: engine.precision)
    metrics.training = lambda: runs.training
    steps = LearnerSteps(database)
    privacy.when_erased.append(steps.forget)
    evaluations = Evaluations(database, plays, settings.name)
    gate = PromotionGate(
        settings.gate,
        database=database,
        writer=writer,
        champions=champions,
        pointers=pointers,
        runs=runs,
        evaluations=evaluations,
    )
    watch = LiveWatch(settings.watch, settings.canary, database=database, champions=champions, pointers=pointers)
    learner = None
    if learns and settings.learner.start:
        key = callers.own_key("own learner", "learner")
        learner = LearnerProcess(
            settings.learner,
            runs,
            data_dir=data_dir,
            key=key,
            gpu_variables=built.placement.learner_variables,
            gpu_memory=built.placement.learner_share,
        )
    schedule = Schedule(settings.schedule, database, writer, runs, learner)
    episodes.when_ended.append(schedule.episode_scored)

    # Rewards.
    def rewarded(episode_id: str) -> None:
        schedule.episode_scored(episode_id)
        index.touch(episode_id)

    scorers = Scorers(scorers_made, database, writer, on_scored=rewarded, count=metrics.scored)
    opinions = Opinions(database, writer, built.renderer, lambda: engine.context_tokens, [rewarded])
    reward_sources = RewardSources(settings.rewards, database, writer, on_change=index.compare_soon)

    disk = disk_check(settings, database)
    notifications = Notifications(
        settings.notify,
        make_targets(settings.notify, data_dir),
        disk=disk,
        policy=settings.name,
        database=database,
        writer=writer,
        metrics=metrics,
    )

    rehearsed = Checks(
        settings=settings.schedule,
        gate=settings.gate,
        database=database,
        engine=engine,
        pointers=pointers,
        evaluations=evaluations,
        runs=runs,
        schedule=schedule,
        trial=Trial(engine, built.renderer, pointers, environments),
        learning=Learning(learner, runs, engine, publisher, disk, settings.versions.newest),
        notify=notifications.test,
    )

    return Parts(
        settings=settings,
        metrics=metrics,
        store=store,
        database=database,
        writer=writer,
        callers=callers,
        limits=Limits(),
        draining=Draining(),
        engine=engine,
        renderer=built.renderer,
        pointers=pointers,
        placement=built.placement.message,
        episodes=episodes,
        turns=turns,
        privacy=privacy,
        index=index,
        opinions=opinions,
        statistics=Statistics(database, writer),
        retention=Retention(privacy, settings.retention_days),
        idle=IdleEpisodes(database, episodes, settings.idle_close_s),
        environments=environments,
        plays=plays,
        serving=serving,
        publisher=publisher,
        champions=champions,
        shadow=shadow,
        runs=runs,
        steps=steps,
        gate=gate,
        batches=Batches(database, writer, plays, pointers, gate),
        watch=watch,
        learner=learner,
        schedule=schedule,
        reward_sources=reward_sources,
        scorers=scorers,
        notifications=notifications,
        rehearsals=Rehearsals(rehearsed, schedule, database),
        otlp=Otlp(
            settings.telemetry,
            settings.name,
            database=database,
            metrics=metrics,
            position=Position(data_dir / "telemetry" / "otlp.json"),
        ),
        tracker=Tracker(
            settings.telemetry,
            database=database,
            metrics=metrics,
            position=Position(data_dir / "telemetry" / "tracker.json"),
        ),
        log_files=LogFiles(data_dir),
    )
