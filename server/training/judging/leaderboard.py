"""The leaderboard: measures policies of this server by plays, and endpoints by the episodes that their caller plays."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.environments.plays import Plays, check_tasks
from server.errors import BadRequest, Conflict, NotFound
from server.store.database import Database, new_id
from server.store.tables import EpisodeRow, LeaderboardRow, PlayRow, StepRow, TurnRow
from server.store.writer import Writer
from server.training.judging.shares import share_interval
from upturn.wire import (
    LeaderboardEnd,
    LeaderboardEntry,
    LeaderboardFigures,
    LeaderboardRequest,
    LeaderboardView,
    PlayRequest,
    Share,
)

MOST_ENTRIES = 100
"""Entries that are listed."""
MOST_FAMILIES = 60
"""Families beyond which the part before a name's first `/` is no family."""


class Leaderboard:
    """Measures models, and reads what was measured."""

    def __init__(self, database: Database, writer: Writer, plays: Plays) -> None:
        self._database = database
        self._writer = writer
        self._plays = plays

    async def begin(self, request: LeaderboardRequest) -> LeaderboardEntry:
        """Add an entry; a policy is played at once.

        Raises:
            NotFound: the environment, a task, or the policy does not exist.
            BadRequest: the environment has no tools to offer.
        """
        play_id = None
        if request.policy is not None:
            play_id = await self._plays.start(request.play())
        else:
            checked = PlayRequest(environment=request.environment, tasks=request.tasks, horizon=1, tools=request.tools)
            await asyncio.to_thread(check_tasks, checked)
        row = LeaderboardRow(
            id=new_id("board"),
            environment=request.environment,
            request=request.model_dump(mode="json"),
            play_id=play_id,
            state="running" if play_id is None else None,
            created_at=time.time(),
        )
        await self._writer.write(lambda session: session.add(row))
        return await self.entry(row.id)

    async def end(self, entry_id: str, end: LeaderboardEnd) -> LeaderboardEntry:
        """End an endpoint's entry; ending it in the same way again changes nothing.

        Raises:
            NotFound: there is no such entry.
            BadRequest: the entry is a policy's, which the server ends itself.
            Conflict: it has ended otherwise, or it is not done: its episodes are too few, too many, or still open.
        """

        def write(session: Session) -> None:
            row = _row(session, entry_id)
            if row.state is None:
                raise BadRequest("this entry measures a policy: it ends with its play", code="entry_of_policy")
            values = {**end.model_dump(exclude={"state"}), "state": end.state}
            if row.state != "running":
                if any(getattr(row, name) != value for name, value in values.items()):
                    raise Conflict(f"entry {entry_id} has ended: {row.state}", code="entry_ended")
                return
            if end.state == "done":
                _check_complete(session, row)
            for name, value in values.items():
                setattr(row, name, value)
            row.ended_at = time.time()

        await self._writer.write(write)
        return await self.entry(entry_id)

    async def delete(self, entry_id: str) -> None:
        """Remove an entry; its episodes stay in the record.

        Raises:
            NotFound: there is no such entry.
            Conflict: a policy's play is running; cancel it first.
        """

        def write(session: Session) -> None:
            row = _row(session, entry_id)
            if row.play_id is not None and self._plays.playing(row.play_id):
                raise Conflict(f"{row.play_id} is running: cancel it first", code="play_running")
            session.delete(row)

        await self._writer.write(write)

    async def entry(self, entry_id: str) -> LeaderboardEntry:
        """Return an entry.

        Raises:
            NotFound: there is no such entry.
        """

        def read() -> LeaderboardEntry:
            with self._database.read() as session:
                return _view(session, _row(session, entry_id))

        return await asyncio.to_thread(read)

    async def view(self, environment: str | None) -> LeaderboardView:
        """Return the newest entries, of one environment or of all."""

        def read() -> LeaderboardView:
            query = sa.select(LeaderboardRow).order_by(LeaderboardRow.id.desc()).limit(MOST_ENTRIES)
            if environment is not None:
                query = query.where(LeaderboardRow.environment == environment)
            with self._database.read() as session:
                return LeaderboardView(data=[_view(session, row) for row in session.scalars(query)])

        return await asyncio.to_thread(read)


def _row(session: Session, entry_id: str) -> LeaderboardRow:
    row = session.get(LeaderboardRow, entry_id)
    if row is None:
        raise NotFound(f"no leaderboard entry {entry_id!r}", code="entry_not_found")
    return row


def _episodes_of(row: LeaderboardRow, request: LeaderboardRequest) -> list[sa.ColumnElement[bool]]:
    """Return the conditions on an entry's episodes."""
    if row.play_id is not None:
        return [EpisodeRow.play_id == row.play_id]
    return [
        EpisodeRow.group_key.in_([f"{row.id}:{number}" for number in range(len(request.tasks))]),
        EpisodeRow.environment == request.environment,
        EpisodeRow.horizon == request.horizon,
        EpisodeRow.seed == request.seed,
        EpisodeRow.trainable.is_(False),
    ]


def _check_complete(session: Session, row: LeaderboardRow) -> None:
    """Check that an endpoint's entry has its episodes, all of them ended, and no others among which to choose."""
    request = LeaderboardRequest.model_validate(row.request)
    query = sa.select(EpisodeRow.group_key, EpisodeRow.task, EpisodeRow.status).where(*_episodes_of(row, request))
    played: dict[int, int] = defaultdict(int)
    for group, task, status in session.execute(query):
        number = int((group or "").removeprefix(f"{row.id}:"))
        if status == "open":
            raise Conflict(f"an episode of {task!r} is still open", code="entry_incomplete")
        if task != request.tasks[number]:
            raise Conflict(f"group {group} is for {request.tasks[number]!r}, not {task!r}", code="entry_incomplete")
        played[number] += 1
    for number, task in enumerate(request.tasks):
        if played[number] != request.repetitions:
            raise Conflict(
                f"task {task!r} has {played[number]} episodes, not {request.repetitions}", code="entry_incomplete"
            )


def _view(session: Session, row: LeaderboardRow) -> LeaderboardEntry:
    request = LeaderboardRequest.model_validate(row.request)
    state, error, ended_at = row.state, row.error, row.ended_at
    prompt_tokens, completion_tokens, version = row.prompt_tokens, row.completion_tokens, None
    if row.play_id is not None:
        play = session.get_one(PlayRow, row.play_id)
        state, error, ended_at = "failed" if play.state == "cancelled" else play.state, play.error, play.ended_at
        prompt_tokens, completion_tokens, version, versions = session.execute(
            sa.select(
                sa.func.sum(TurnRow.prompt_tokens),
                sa.func.sum(TurnRow.completion_tokens),
                sa.func.max(TurnRow.policy_version),
                sa.func.count(TurnRow.policy_version.distinct()),
            )
            .join(EpisodeRow, EpisodeRow.id == TurnRow.episode_id)
            .where(*_episodes_of(row, request))
        ).one()
        if versions > 1 and state == "done":
            state, error = "failed", "more than one version answered: name one, such as policy@3"
    cost = None
    if request.price is not None and prompt_tokens is not None and completion_tokens is not None:
        cost = (prompt_tokens * request.price.prompt + completion_tokens * request.price.completion) / 1e6
    return LeaderboardEntry(
        id=row.id,
        state=state,  # type: ignore[arg-type]
        error=error,
        request=request,
        policy_version=version,
        play_id=row.play_id,
        figures=_figures(session, row, request),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=cost,
        created_at=row.created_at,
        ended_at=ended_at,
    )


def _figures(session: Session, row: LeaderboardRow, request: LeaderboardRequest) -> LeaderboardFigures:
    which = _episodes_of(row, request)
    of_entry = sa.select(EpisodeRow.id).where(*which)
    steps = (
        sa.select(StepRow.episode_id, sa.func.sum(StepRow.reward).label("reward"), sa.func.count().label("turns"))
        .where(StepRow.episode_id.in_(of_entry))
        .group_by(StepRow.episode_id)
        .subquery()
    )
    ended = EpisodeRow.status != "open"
    of_task: Any = sa.select(
        EpisodeRow.task,
        sa.func.count().filter(ended).label("finished"),
        sa.func.count(EpisodeRow.success).filter(ended).label("judged"),
        sa.func.count().filter(ended, EpisodeRow.success.is_(True)).label("won"),
        sa.func.sum(steps.c.reward).filter(ended, EpisodeRow.success.is_not(None)).label("reward"),
        sa.func.sum(steps.c.turns).filter(ended, EpisodeRow.success.is_not(None)).label("turns"),
    )
    rows = session.execute(
        of_task.outerjoin(steps, steps.c.episode_id == EpisodeRow.id).where(*which).group_by(EpisodeRow.task)
    ).all()
    finished, judged = sum(task.finished for task in rows), sum(task.judged for task in rows)
    results = sorted((task.task or "", task.won, task.judged) for task in rows if task.judged)
    return LeaderboardFigures(
        expected=len(request.tasks) * request.repetitions,
        finished=finished,
        errors=finished - judged,
        success=_share(results) if results else None,
        families=_families(results),
        mean_reward=sum(task.reward or 0.0 for task in rows) / judged if judged else None,
        mean_turns=sum(task.turns or 0 for task in rows) / judged if judged else None,
    )


def _share(results: Sequence[tuple[str, int, int]]) -> Share:
    mean, low, high = share_interval([(won, count) for _, won, count in results])
    return Share(tasks=len(results), episodes=sum(count for *_, count in results), success=mean, low=low, high=high)


def _families(results: Sequence[tuple[str, int, int]]) -> dict[str, Share]:
    """Return the success of each family of tasks; nothing if the names show none."""
    of_family: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for result in results:
        family, sign, _ = result[0].partition("/")
        if not sign:
            return {}
        of_family[family].append(result)
    if not 1 < len(of_family) <= MOST_FAMILIES:
        return {}
    return {family: _share(found) for family, found in sorted(of_family.items())}
