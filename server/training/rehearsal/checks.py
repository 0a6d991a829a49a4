"""All checks of a rehearsal, in their order: what starts tonight, then what each run reads, plays, and trains.

The checks of the whole server, of the runs, and of the learner, which take longest, are made at the same time. They
read the record as the schedule, the batches and the gate do, and write no row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy.orm import Session

from server.engines.protocol import Engine
from server.errors import Conflict, UpturnError
from server.store.database import Database
from server.training.evaluations import Evaluations, last_horizon
from server.training.rehearsal.beginning import beginning_of, beginning_text, config_findings, run_to_rehearse
from server.training.rehearsal.data import live_findings, play_findings
from server.training.rehearsal.environments import Trial, Use, uses_of
from server.training.rehearsal.judging import NO_PLAN, gate_findings
from server.training.rehearsal.learning import Learning
from server.training.rehearsal.report import Finding, Report, failed, ok, warning
from server.training.rehearsal.tonight import Tonight, tonight
from server.training.rehearsal.when import blocker_findings, trigger_finding
from server.training.runs import Runs
from server.training.scheduling.schedule import Schedule
from server.training.scheduling.settings import ScheduleSettings
from server.training.settings import GateSettings
from server.versions import ledger
from server.versions.routing import Pointers
from upturn.wire import NotificationTest, RehearsalRequest, RunConfig, TriggerView

T = TypeVar("T")
log = logging.getLogger("upturn.rehearsal")
READ_S = 30.0
"""Limit of a check that reads, or asks something that answers quickly."""
OPEN_S = 60.0
"""Limit of an environment that is opened and played."""
AT_ONCE = 2
"""Environments that are tried at the same time."""
TEST = "this is a rehearsal of tonight's training: notifications of this server arrive here"


class Checks:
    """Makes all checks of a rehearsal.

    Args:
        settings: the run of the settings, and whether runs keep to windows.
        gate: the gate's rule.
        database: only read.
        engine: answers in environments.
        pointers: name the versions that play.
        evaluations: check an evaluation's plan.
        runs: check a config.
        schedule: knows the triggers.
        trial: plays environments.
        learning: lets the learner rehearse.
        notify: sends a message to all targets of notifications.
    """

    def __init__(
        self,
        *,
        settings: ScheduleSettings,
        gate: GateSettings,
        database: Database,
        engine: Engine,
        pointers: Pointers,
        evaluations: Evaluations,
        runs: Runs,
        schedule: Schedule,
        trial: Trial,
        learning: Learning,
        notify: Callable[[str], Awaitable[NotificationTest]],
    ) -> None:
        self._settings = settings
        self._gate = gate
        self._database = database
        self._engine = engine
        self._pointers = pointers
        self._evaluations = evaluations
        self._runs = runs
        self._schedule = schedule
        self._trial = trial
        self._learning = learning
        self._notify = notify

    async def make(self, report: Report, request: RehearsalRequest, triggers: Sequence[TriggerView]) -> None:
        """Make the checks.

        Args:
            report: gets what they find.
            request: what to rehearse.
            triggers: the triggers that it is about; none for a config of its own.
        """
        await report.attempt("schedule", READ_S, partial(self._when, request, triggers))
        runs: list[Tonight] = []
        for one in tonight(request, triggers, self._schedule, self._settings.run):
            complete = Tonight(one.name, self._runs.resolved(one.config))
            if await report.attempt("config", READ_S, partial(self._config, complete.config), complete.name):
                runs.append(complete)
        for one in runs:
            report.plan(one.name, "what it reads and plays", *(["the learner"] if self._learning.here else []))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._whole_server(report))
            group.create_task(self._each_run(report, runs))
            group.create_task(self._learners(report, runs))

    # ------------------------------------------------------------------------------------------ the three parts

    async def _whole_server(self, report: Report) -> None:
        """Check what all runs need."""
        await asyncio.gather(
            report.attempt("learner", READ_S, self._learning.available),
            report.attempt("disk", READ_S, self._learning.space),
            report.attempt("engine", READ_S, self._learning.serving),
            report.attempt("notification", READ_S, self._told),
        )

    async def _each_run(self, report: Report, runs: Sequence[Tonight]) -> None:
        """Check what each run reads and plays."""
        free = asyncio.Semaphore(AT_ONCE)

        async def played(use: Use, name: str) -> None:
            async with free:
                await report.attempt(use.name, OPEN_S, partial(self._trial.findings, use), name)

        for name, config in ((one.name, one.config) for one in runs):
            report.begin(name, "what it reads and plays")
            await report.attempt("campaign", READ_S, partial(self._campaign, config), name)
            await report.attempt("data", READ_S, partial(self._data, config), name)
            await report.attempt("gate", READ_S, partial(self._judged, config), name)
            await asyncio.gather(*(played(use, name) for use in uses_of(config, self._pointers)))

    async def _learners(self, report: Report, runs: Sequence[Tonight]) -> None:
        """Let the learner rehearse one run after another."""
        if not self._learning.here:
            return
        for name, config in ((one.name, one.config) for one in runs):
            report.begin(name, "the learner")
            try:
                beginning = await self._read(partial(beginning_of, config=config))
                run = run_to_rehearse(config, beginning, self._runs, self._pointers, self._engine.precision)
                await self._learning.rehearse(report, name, run)
            except UpturnError as error:
                report.add("learner", [failed(error.message)], name)
            except Exception as error:
                log.exception("the learner cannot rehearse")
                report.add("learner", [failed(f"{type(error).__name__}: see the server's log")], name)

    # ------------------------------------------------------------------------------------------- single checks

    async def _when(self, request: RehearsalRequest, triggers: Sequence[TriggerView]) -> Iterable[Finding]:
        now = self._schedule.clock()
        blockers = await self._read(lambda session: list(blocker_findings(session)))
        found = [
            finding.of(f"trigger {view.name}")
            for view in triggers
            for finding in [trigger_finding(view, self._schedule, self._settings, now)]
        ]
        if triggers or request.config is not None:
            return [*found, *blockers]
        return [failed("no trigger is set, so nothing starts tonight: set schedule.triggers"), *blockers]

    async def _config(self, config: RunConfig) -> Iterable[Finding]:
        return config_findings(self._runs, config)

    async def _campaign(self, config: RunConfig) -> Iterable[Finding]:
        beginning = await self._read(lambda session: beginning_of(session, config))
        return [ok(beginning_text(config, beginning))]

    async def _data(self, config: RunConfig) -> Iterable[Finding]:
        def read(session: Session) -> list[Finding]:
            first_step = beginning_of(session, config).first_step
            played = [] if config.play is None else list(play_findings(config.play, config, first_step))
            return played + list(live_findings(session, config, self._pointers.head, self._runs.clock()))

        return await self._read(read)

    async def _judged(self, config: RunConfig) -> Iterable[Finding]:
        plan, horizon = config.evaluation, last_horizon(config.schedule)
        if plan is None:
            return [warning(NO_PLAN[self._pointers.weights])]
        tasks = await self._evaluations.check("rehearsal", plan, horizon)
        spent = await self._read(ledger.spent_levels)
        return await asyncio.to_thread(lambda: list(gate_findings(config, tasks, self._gate, spent)))

    async def _told(self) -> Iterable[Finding]:
        try:
            told = await self._notify(TEST)
        except Conflict as error:
            return [warning(f"nobody will be told what happens tonight, since {error.message}")]
        return [
            ok(f"arrived at the {one.target}")
            if one.arrived
            else failed(f"did not arrive at the {one.target}: {one.error}; correct its settings, or the receiver")
            for one in told.data
        ]

    async def _read(self, work: Callable[[Session], T]) -> T:
        def read() -> T:
            with self._database.read() as session:
                return work(session)

        return await asyncio.to_thread(read)
