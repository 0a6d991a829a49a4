"""Rewarded live agents and manually promoted versions, for tests of promotion."""

from __future__ import annotations

import asyncio
import time

import httpx2
import sqlalchemy as sa

from tests.support.live import Live
from tests.support.runs.gated import end, publish
from tests.support.runs.scripted import ASK, LEARNER
from upturn.client import Client
from upturn.wire import EpisodeOpen, FixedHorizon, PromotionView, RewardRequest, RunClaim, RunConfig, RunRequest

HOURS_S = 5 * 3600.0
"""Longer than the age at which rewards are read without earlier ones."""
AGES = {"episode": ("opened_at", "closed_at"), "turn": ("created_at",), "reward": ("created_at",)}


def age(live: Live) -> None:
    """Let all episodes so far be hours older, so that their rewards are mature at a promotion."""
    for change in aging(AGES):
        live.parts.writer.submit(lambda session, change=change: session.execute(change)).result(timeout=60)  # type: ignore[misc]


def aging(tables: dict[str, tuple[str, ...]]) -> list[sa.TextClause]:
    """Return the statements that move the given columns of each table hours back."""
    return [
        sa.text(f"update {table} set {', '.join(f'{column} = {column} - {HOURS_S}' for column in columns)}")
        for table, columns in tables.items()
    ]


def talk(http: httpx2.Client, key: str, model: str = "policy") -> int:
    """Take one turn; return the version that answered."""
    answer = http.post(
        "/v1/chat/completions", headers={"authorization": f"Bearer {key}"}, json={"model": model, "messages": ASK}
    )
    assert answer.status_code == 200, answer.text
    return int(answer.headers["x-policy-version"])


def earn(client: Client, http: httpx2.Client, reward: float | dict[int, float], count: int = 12) -> list[int]:
    """Let `count` live agents take one turn each and reward them; return the versions that answered.

    `reward` is one value for all, or values by version.
    """
    answered = []
    for _ in range(count):
        opened = client.open_episode(EpisodeOpen())
        answered.append(talk(http, opened.key))
        value = reward if isinstance(reward, float) else reward[answered[-1]]
        client.reward(opened.id, RewardRequest(value=value))
    return answered


def new_version(live: Live, answer: str = "win", kind: str = "adapter", client: Client | None = None) -> int:
    """Train a version in a run without an evaluation plan."""
    client = client or live.client
    client.create_run(RunRequest(config=RunConfig(steps=1, kind=kind, schedule=FixedHorizon(horizon=2))))
    run = client.claim_run(RunClaim(learner=LEARNER))
    assert run is not None
    version = publish(client, live.parts.settings.data_dir, run, answer)
    end(client, run)
    return version


def promoted(live: Live, answer: str = "win") -> int:
    """Train a version and promote it manually."""
    version = new_version(live, answer)
    live.client.promote(version)
    return version


def check_watch(live: Live, at: float | None = None) -> None:
    """Run the live-reward watch's check as if it were hours later, or `at`, and the server had just started.

    The checks that also run every few seconds see the real time.
    """
    watch, clock = live.parts.watch, live.parts.watch.clock
    watch._promoted = watch._tried = None
    watch.clock = lambda: time.time() + HOURS_S if at is None else at
    asyncio.run_coroutine_threadsafe(watch.check(), live.loop).result(timeout=60)
    watch.clock = clock
    watch._promoted = watch._tried = None


def newest(live: Live) -> PromotionView:
    """Return the newest row of the promotion ledger."""
    return live.client.promotions().data[0]
