"""Runs whose configuration declares their batches, with the test as their learner."""

from __future__ import annotations

from typing import Any

from tests.support.live import Live
from tests.support.runs.scripted import ASK, LEARNER
from upturn.wire import BatchRequest, BatchView, EpisodeOpen, RewardRequest, RunClaim, RunConfig, RunRequest


def begin(server: Live, **fields: Any) -> str:
    """Queue and claim a run."""
    config = RunConfig.model_validate({"steps": 3, "algorithm": "reinforce_pp", "seed": 3, **fields})
    run = server.client.create_run(RunRequest(config=config))
    assert server.client.claim_run(RunClaim(learner=LEARNER)) is not None
    return run.id


def lease(live: Live, run_id: str, step: int = 0) -> BatchView:
    """Lease a step's batch as a learner does: repeat the request until its play has ended."""
    while True:
        batch = live.client.lease_batch(BatchRequest(run_id=run_id, learner=LEARNER, step=step, horizon=2))
        if batch.state == "leased":
            return batch


def rewarded(live: Live, source: str) -> str:
    """Record a live episode with a reward of 1 from a source; return its id."""
    opened = live.client.open_episode(EpisodeOpen())
    live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
    live.client.reward(opened.id, RewardRequest(value=1.0, source=source))
    live.client.close_episode(opened.id)
    return opened.id
