"""Sends each learner step's metrics to an experiment tracker with W&B's calls: Trackio, or W&B itself.

A tracker's run has the name of this project's run. It is open while its run is unfinished, and opened again after a
restart; how many steps it has is noted in a file.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.background import Repeated
from server.metrics import Metrics
from server.store.database import BROKEN, Database
from server.store.learner_metrics import metrics_by_step
from server.store.tables import BatchRow, RunRow
from server.telemetry.position import Position
from server.telemetry.settings import TelemetrySettings

log = logging.getLogger("upturn.telemetry")
FINISHED = ("done", "failed", "cancelled")


class Tracker:
    """The export to one experiment tracker; idle without one."""

    def __init__(
        self, settings: TelemetrySettings, *, database: Database, metrics: Metrics, position: Position
    ) -> None:
        self._settings = settings
        self._database = database
        self._metrics = metrics
        self._position = position
        self._repeated = Repeated(self.export, settings.every_s)
        self._open: dict[str, Any] = {}
        """The tracker's open run, by this project's."""
        self._failing = False

    def start(self) -> None:
        """Export now, and then again and again."""
        if self._settings.tracker is not None:
            self._repeated.start()

    def close(self) -> None:
        """Stop; the next start continues."""
        self._repeated.close()
        for run in self._open.values():
            run.finish()
        self._open.clear()

    async def export(self) -> None:
        """Send the steps that have ended since the last export. Whatever fails is counted, logged, and tried again."""
        try:
            await asyncio.to_thread(self._export)
        except BROKEN as error:
            log.warning("the record cannot be read, so nothing is tracked: %s", type(error).__name__)
        except Exception as error:  # Whatever another program's package raises.
            self._metrics.exported(self._settings.tracker or "", "failed")
            if not self._failing:
                log.warning("%s does not take metrics: %s: %s", self._settings.tracker, type(error).__name__, error)
            self._failing = True

    def _export(self) -> None:
        sent = self._position.read()
        with self._database.read() as session:
            found = [(run, _steps(session, run, sent.get(run.id, 0))) for run in _unsent(session, sent)]
        for run, steps in found:
            if steps:
                tracked = self._run(run)
                for step, figures in steps:
                    tracked.log(figures, step=step)
                    self._metrics.exported(self._settings.tracker or "", "sent")
                    sent[run.id] = step - run.first_step + 1
                    self._position.write(sent)
            if run.state in FINISHED and sent.get(run.id, 0) >= run.step:
                if run.id in self._open:
                    self._open.pop(run.id).finish()
                sent[run.id] = -1
                self._position.write(sent)
        self._failing = False

    def _run(self, run: RunRow) -> Any:
        if run.id not in self._open:
            name = self._settings.tracker or ""
            module, same = importlib.import_module(name), {"id": run.id} if name == "wandb" else {}
            self._open[run.id] = module.init(
                project=self._settings.project, name=run.id, config=run.config, resume="allow", **same
            )
        return self._open[run.id]


def _unsent(session: Session, sent: dict[str, int]) -> list[RunRow]:
    """Return the runs that are not sent to their end, the oldest first."""
    ended = [run_id for run_id, steps in sent.items() if steps < 0]
    query = sa.select(RunRow).where(RunRow.started_at.is_not(None), RunRow.id.not_in(ended)).order_by(RunRow.id)
    return list(session.scalars(query))


def _steps(session: Session, run: RunRow, first: int) -> list[tuple[int, dict[str, float]]]:
    """Return the finished steps of a run from a step on: the global number, and the metrics."""
    batches = sa.select(BatchRow).where(BatchRow.run_id == run.id, BatchRow.state == "trained", BatchRow.step >= first)
    figures = metrics_by_step(session, run.id, first)
    return [
        (
            run.first_step + batch.step,
            {
                **figures[batch.step],
                "horizon": float(batch.horizon),
                **({"version": float(batch.policy_version)} if batch.policy_version is not None else {}),
            },
        )
        for batch in session.scalars(batches.order_by(BatchRow.step))
    ]
