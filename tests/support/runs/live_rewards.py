"""Rewarded live agents and manually promoted versions, for tests of promotion."""

from __future__ import annotations

import asyncio

import httpx2

from tests.support.live import Live
from tests.support.runs.gated import end, publish
from tests.support.runs.scripted import ASK, LEARNER
from upturn.client import Client
from upturn.wire import EpisodeOpen, FixedHorizon, PromotionView, RewardRequest, RunClaim, RunConfig, RunRequest


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


def check_watch(live: Live) -> None:
    """Run the live-reward watch's check now; it also runs every few seconds."""
    asyncio.run_coroutine_threadsafe(live.parts.watch.check(), live.loop).result(timeout=60)


def newest(live: Live) -> PromotionView:
    """Return the newest row of the promotion ledger."""
    return live.client.promotions().data[0]
