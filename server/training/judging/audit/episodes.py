"""Reads the figures of a play's episodes from the record: few queries, and of each answer only beginning and end."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.rendering.tool_calls import CALL_OPEN
from server.rewards.rules import read_rules
from server.store.tables import EpisodeRow, RewardRow, StepRow, TurnRow
from server.training.judging.audit.texts import asks, calls_well, repetition

BEGINNING, END = 1000, 200
"""Characters of an answer that are read."""
ENVIRONMENT = "environment"
"""The component of the environment's rewards; the parts that it names are `environment:NAME`."""
PARTS = "reward_parts"
"""Key of a step's `info` with the named parts of its reward."""
MOST_COMPONENTS = 16
"""Components with names of their own in one episode; further ones count as the environment's."""


@dataclass(frozen=True, slots=True)
class EpisodeFigures:
    """One episode of an evaluation."""

    id: str
    task: str
    success: bool | None
    turns: int = 0
    tokens: int = 0
    steps: int = 0
    invalid_steps: int = 0
    calls: int = 0
    """Turns that called a tool or tried to; 0 without tools, as the next two."""
    bad_calls: int = 0
    avoided_calls: int | None = None
    """Turns without a tool call, except the last one of an episode that called a tool; None without tools."""
    questions: int = 0
    repetition: float | None = None
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Rewards by component; empty without rewards."""

    @property
    def tools(self) -> bool:
        """Whether tools were offered."""
        return self.avoided_calls is not None

    @property
    def reward(self) -> float | None:
        """The episode's reward; None without rewards."""
        return sum(sorted(self.rewards.values())) if self.rewards else None


@dataclass(slots=True)
class _Turns:
    """What the turns of one episode add up to."""

    count: int = 0
    tokens: int = 0
    calls: list[bool | None] = field(default_factory=list)
    questions: int = 0
    beginnings: list[str] = field(default_factory=list)


def read_episodes(session: Session, play_id: str, tasks: Sequence[str], *, tools: bool) -> list[EpisodeFigures]:
    """Return the figures of a play's episodes on tasks, ordered by id.

    Args:
        session: the database.
        play_id: an evaluation.
        tasks: the tasks whose episodes count.
        tools: whether tools were offered.
    """
    asked = (EpisodeRow.play_id == play_id, EpisodeRow.task.in_(tasks))
    of_play = sa.select(EpisodeRow.id).where(*asked)
    steps, invalid = _steps(session, of_play)
    turns = _turns(session, of_play, invalid, tools)
    rewards = _rewards(session, of_play)
    found = session.execute(sa.select(EpisodeRow.id, EpisodeRow.task, EpisodeRow.success).where(*asked))
    return [
        EpisodeFigures(
            id=row.id,
            task=row.task or "",
            success=row.success,
            turns=(of := turns.get(row.id, _Turns())).count,
            tokens=of.tokens,
            steps=steps.get(row.id, 0),
            invalid_steps=len(invalid.get(row.id, ())),
            calls=sum(good is not None for good in of.calls),
            bad_calls=of.calls.count(False),
            avoided_calls=_avoided(of.calls) if tools else None,
            questions=of.questions,
            repetition=repetition(of.beginnings),
            rewards=rewards.get(row.id, {}),
        )
        for row in sorted(found, key=lambda row: row.id)
    ]


def _avoided(calls: Sequence[bool | None]) -> int:
    last_is_free = bool(calls) and calls[-1] is None and any(good is not None for good in calls)
    return calls.count(None) - last_is_free


def _steps(session: Session, of_play: sa.Select[str]) -> tuple[dict[str, int], dict[str, set[int]]]:
    """Return the number of steps of each episode, and the indexes of steps that could not be understood."""
    counted = sa.select(StepRow.episode_id, sa.func.count()).where(StepRow.episode_id.in_(of_play))
    steps = {row[0]: row[1] for row in session.execute(counted.group_by(StepRow.episode_id))}
    invalid: dict[str, set[int]] = defaultdict(set)
    wrong = sa.select(StepRow.episode_id, StepRow.index).where(
        StepRow.episode_id.in_(of_play), StepRow.info["valid"].as_boolean().is_(False)
    )
    for episode_id, index in session.execute(wrong):
        invalid[episode_id].add(index)
    return steps, invalid


def _turns(
    session: Session, of_play: sa.Select[str], invalid: Mapping[str, set[int]], tools: bool
) -> dict[str, _Turns]:
    answer = _readable(session, TurnRow.answer)
    content, thoughts = (answer[name].as_string() for name in ("content", "reasoning_content"))
    length = sa.func.length(content)
    query = (
        sa.select(
            TurnRow.episode_id,
            TurnRow.completion_tokens,
            sa.func.substr(thoughts, 1, BEGINNING).label("thoughts"),
            sa.func.substr(content, 1, BEGINNING).label("beginning"),
            sa.func.substr(content, sa.case((length > END, length - END + 1), else_=1)).label("end"),
            (answer["tool_calls"].as_string() if tools else sa.null()).label("calls"),
            (content.contains(CALL_OPEN, autoescape=True) if tools else sa.false()).label("opened"),
        )
        .where(TurnRow.episode_id.in_(of_play))
        .order_by(TurnRow.episode_id, TurnRow.index)
    )
    found: dict[str, _Turns] = {}
    for episode_id, rows in groupby(session.execute(query), key=lambda row: row.episode_id):
        of = found[episode_id] = _Turns()
        for number, row in enumerate(rows):  # In a play, each turn is a step.
            called = calls_well(json.loads(row.calls or "[]") or [], bool(row.opened))
            of.count += 1
            of.tokens += row.completion_tokens
            of.calls.append(called)
            of.beginnings.append(f"{row.thoughts or ''}\n{row.beginning or ''}")
            of.questions += called is None and asks(row.end or "", number not in invalid.get(episode_id, ()))
    return found


def _readable(session: Session, column: Any) -> Any:
    """Return a column of JSON without NUL: a model may write it, PostgreSQL refuses it, in SQLite it ends a text."""
    cleaned = sa.func.replace(sa.cast(column, sa.Text), r"\u0000", r"\ufffd")
    return (
        sa.cast(cleaned, sa.JSON)
        if session.get_bind().dialect.name == "postgresql"
        else sa.type_coerce(cleaned, sa.JSON)
    )


def _rewards(session: Session, of_play: sa.Select[str]) -> dict[str, dict[str, float]]:
    """Return the rewards of each episode by component: the environment, its named parts, and each source."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    earned = sa.select(StepRow.episode_id, sa.func.sum(StepRow.reward)).where(StepRow.episode_id.in_(of_play))
    for episode_id, total in session.execute(earned.group_by(StepRow.episode_id)):
        found[episode_id][ENVIRONMENT] = total
    named = StepRow.info[PARTS].as_string()
    parts = sa.select(StepRow.episode_id, named).where(StepRow.episode_id.in_(of_play), named.is_not(None))
    for episode_id, text in session.execute(parts):
        of = found[episode_id]
        for name, value in _named_parts(text).items():
            key = f"{ENVIRONMENT}:{name}"
            if key in of or len(of) <= MOST_COMPONENTS:
                of[key] = of.get(key, 0.0) + value
                of[ENVIRONMENT] -= value
    given: dict[str, list[tuple[str, float]]] = defaultdict(list)
    external = sa.select(RewardRow.episode_id, RewardRow.source, RewardRow.value)
    for episode_id, source, value in session.execute(external.where(RewardRow.episode_id.in_(of_play))):
        given[episode_id].append((source, value))
    rules = read_rules(session) if given else None
    for episode_id, rewards in given.items():
        of = found[episode_id]
        for source, value in rules.by_source(rewards).items() if rules else ():
            of[source] = of.get(source, 0.0) + value
    return found


def _named_parts(text: str) -> dict[str, float]:
    """Return the parts of a step's reward that are numbers; an environment may write anything there."""
    try:
        parts: Any = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(parts, dict):
        return {}
    return {
        str(name)[:100]: float(value)
        for name, value in parts.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
