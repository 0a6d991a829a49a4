"""One run over the scripted engine, step by step, with the test as its learner."""

from __future__ import annotations

from pathlib import Path

from server.engines.scripted import scripted_logprobs
from tests.support.live import Live, script
from upturn.manifest import write_manifest
from upturn.wire import (
    BatchRequest,
    BatchView,
    EpisodeOpen,
    LivePlan,
    PolicyPublish,
    Probe,
    RewardRequest,
    RunClaim,
    RunConfig,
    RunRequest,
)

ASK = [{"role": "user", "content": "Hi"}]
LEARNER = "tester"
PROBE = list(range(32, 126)) * 2
FEW_LIVE = LivePlan(min_episodes=1)
"""A plan whose batches may have any number of live episodes."""


def reward_two(live: Live, group: str = "g", rewards: tuple[float, ...] = (1.0, 0.0)) -> list[str]:
    """Record one live episode per reward in a group; return their ids."""
    ids = []
    for value in rewards:
        opened = live.client.open_episode(EpisodeOpen(group=group))
        live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK)
        live.client.reward(opened.id, RewardRequest(value=value))
        live.client.close_episode(opened.id)
        ids.append(opened.id)
    return ids


def claim(live: Live, steps: int = 2) -> str:
    """Create a run and claim it; return its id."""
    run = live.client.create_run(RunRequest(config=RunConfig(steps=steps, live=FEW_LIVE)))
    claimed = live.client.claim_run(RunClaim(learner=LEARNER))
    assert claimed is not None and claimed.id == run.id
    return run.id


def lease(live: Live, run_id: str, step: int = 0) -> BatchView:
    """Lease the batch of a step."""
    return live.client.lease_batch(BatchRequest(run_id=run_id, learner=LEARNER, step=step, horizon=5))


def publication(live: Live, run_id: str, *answers: str, probe_from: Path | None = None, step: int = 0) -> PolicyPublish:
    """Write a version that gives these answers; return the request that publishes it.

    The probe's logprobs come from the version in `probe_from`, or from the new version itself.
    """
    directory = script(live.parts.settings.data_dir / "versions" / f"{step}-{len(answers[0])}", *answers)
    sha256 = write_manifest(directory, {"kind": "full"})
    return PolicyPublish(
        run_id=run_id,
        learner=LEARNER,
        step=step,
        path=str(directory),
        manifest_sha256=sha256,
        probe=Probe(token_ids=PROBE, logprobs=scripted_logprobs(probe_from or directory, PROBE)),
    )


def says(live: Live, model: str = "policy") -> tuple[str, str]:
    """Ask a model; return its answer and the version that answered."""
    answer = live.openai(key="other").chat.completions.create(model=model, messages=ASK)
    return answer.choices[0].message.content, answer.system_fingerprint
