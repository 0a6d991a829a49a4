"""All scorers of this server: they score ended live episodes in the background, each at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import sqlalchemy as sa

from server.errors import BadRequest
from server.feedback.due import KEY
from server.feedback.functions import RewardFunction
from server.feedback.judge import Judge
from server.feedback.scoring import Scoring
from server.feedback.verdict import Scorer
from server.rewards.settings import RewardSettings
from server.store.database import Database
from server.store.tables import ScoreRow
from server.store.writer import Writer
from upturn.wire import RewardRequest, ScorerView

RESERVED = ("environment", "*")
"""Sources that nobody may give rewards as: rewards of steps, and the rule of all sources without their own."""


class Scorers:
    """Starts, stops and shows all scorers."""

    def __init__(
        self,
        scorers: list[Scorer],
        database: Database,
        writer: Writer,
        *,
        on_scored: Callable[[str], None],
        count: Callable[[str, str], None],
    ) -> None:
        self._database = database
        self.all = [Scoring(s, database, writer, on_scored=on_scored, count=count) for s in scorers]

    def start(self) -> None:
        """Start scoring."""
        for scoring in self.all:
            scoring.start()

    async def close(self) -> None:
        """Stop."""
        for scoring in self.all:
            await scoring.close()

    def wake(self) -> None:
        """Check again soon: an episode has ended."""
        for scoring in self.all:
            scoring.wake()

    def check_not_ours(self, request: RewardRequest) -> None:
        """Refuse a reward from outside that would look like one of the server's own.

        Raises:
            BadRequest: its source is reserved or a scorer's name, or its key has the scorers' prefix.
        """
        source = request.source.strip().casefold()
        if source in RESERVED or any(scoring.scorer.name == source for scoring in self.all):
            whose = "the server itself" if source in RESERVED else "this server's scorer of that name"
            raise BadRequest(
                f"source {request.source!r} is reserved for {whose}", param="source", code="source_reserved"
            )
        if request.key is not None and request.key.startswith(KEY):
            raise BadRequest(f"keys with the prefix {KEY!r} are reserved for scorers", param="key", code="key_reserved")

    async def views(self) -> list[ScorerView]:
        """Return the state of every scorer, sorted by name."""
        return await asyncio.to_thread(self._views)

    def _views(self) -> list[ScorerView]:
        given_up = sa.func.sum(sa.case((ScoreRow.retry_at.is_(None), 1), else_=0))
        counted = sa.select(ScoreRow.scorer, ScoreRow.state, sa.func.count(), given_up).group_by(
            ScoreRow.scorer, ScoreRow.state
        )
        views = []
        with self._database.read() as session:
            counts = {(scorer, state): (count, never) for scorer, state, count, never in session.execute(counted)}
            for scorer in sorted((scoring.scorer for scoring in self.all), key=lambda scorer: scorer.name):
                errors, never = counts.get((scorer.name, "error"), (0, 0))
                last = (
                    session.scalar(
                        sa.select(ScoreRow)
                        .where(ScoreRow.scorer == scorer.name, ScoreRow.state == "error")
                        .order_by(ScoreRow.updated_at.desc())
                        .limit(1)
                    )
                    if errors
                    else None
                )
                views.append(
                    ScorerView(
                        name=scorer.name,
                        kind=scorer.kind,
                        scored=counts.get((scorer.name, "scored"), (0, 0))[0],
                        errors=errors,
                        given_up=int(never),
                        last_error_at=last.updated_at if last else None,
                        last_error=f"{last.error_class}: {last.detail}" if last else None,
                    )
                )
        return views


def make_scorers(settings: RewardSettings, database: Database) -> list[Scorer]:
    """Return the scorers that the settings define. Imports modules, so it must not run in the event loop.

    Raises:
        SettingsError: a function cannot be imported, or the environment variable of a judge's key is not set.
    """
    return [
        *(RewardFunction(name, its) for name, its in settings.functions.items()),
        *(Judge(name, its, database) for name, its in settings.judges.items()),
    ]
