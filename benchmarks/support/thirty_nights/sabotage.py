"""Bad weights that somebody publishes by hand, in a run by itself: the base model with noise."""

from __future__ import annotations

from pathlib import Path

from benchmarks.support.swap_versions import Versions
from benchmarks.support.thirty_nights.plan import ROUNDS, Plan
from benchmarks.support.thirty_nights.record import BY_HAND
from upturn.client import Client
from upturn.wire import BatchAck, BatchRequest, FixedHorizon, PolicyPublish, RunClaim, RunEnd, RunRequest

HAND = "someone"
"""Name of the learner that publishes them."""


def publish_bad_weights(client: Client, plan: Plan, directory: Path) -> None:
    """Do what a learner does for a run of one step, without learning. The gate then decides."""
    bad = Versions.write("adapter", directory / "model", directory / "data" / "learner", 1).written[0]
    horizon = FixedHorizon(horizon=ROUNDS[-1])
    config = plan.run().model_copy(update={"steps": 1, "campaign": None, "schedule": horizon})
    run = client.create_run(RunRequest(config=config, trigger=BY_HAND))
    if client.claim_run(RunClaim(learner=HAND, run_id=run.id)) is None:
        raise RuntimeError("the server's learner has claimed the run first")
    batch = client.lease_batch(
        BatchRequest(run_id=run.id, learner=HAND, step=0, horizon=ROUNDS[-1]),
        lambda _: client.heartbeat_run(run.id, HAND),
    )
    published = client.publish(
        PolicyPublish(
            run_id=run.id,
            learner=HAND,
            step=0,
            path=str(bad.directory),
            manifest_sha256=bad.manifest_sha256,
            probe=bad.probe,
        )
    )
    ack = BatchAck(learner=HAND, state="trained", policy_version=published.version)
    client.acknowledge_batch(batch.id, ack)
    client.end_run(run.id, RunEnd(learner=HAND, state="done", reason="by hand"))
