"""Runs that end at the promotion gate, with the test as their learner."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.engines.scripted import scripted_logprobs
from server.environments.settings import EnvironmentSettings
from tests.support.live import Live, script, serving, settings_for, until
from tests.support.runs.scripted import LEARNER, PROBE
from upturn.client import Client
from upturn.manifest import write_manifest
from upturn.wire import (
    BatchAck,
    BatchRequest,
    EvaluationPlan,
    FixedHorizon,
    PolicyPublish,
    Probe,
    RunClaim,
    RunConfig,
    RunEnd,
    RunRequest,
    RunView,
)

ENVIRONMENT = "odd/inline:x"  # `win` wins; `add 1` is understood and wins nothing; `raise` breaks it.
TASKS = [f"train/{number}" for number in range(12)]
PLAN = EvaluationPlan(tasks={ENVIRONMENT: TASKS}, repetitions=2)


@contextmanager
def served(tmp_path: Path, weights: str = "full", base: str = "add 1", **more: Any) -> Iterator[Live]:
    """Serve a scripted model that answers `base`, with the odd inline environment."""
    model = script(tmp_path / "script", base)
    environments = EnvironmentSettings(modules=["tests.support.environments.odd_inline"], workers=0)
    with serving(
        settings_for(tmp_path / "data", model=str(model), weights=weights, environments=environments, **more)
    ) as live:
        yield live


def begin(client: Client, kind: str = "full", plan: EvaluationPlan = PLAN, campaign: str | None = None) -> RunView:
    """Create and claim a run of one step with an evaluation plan."""
    horizon = FixedHorizon(horizon=2)
    config = RunConfig(steps=1, kind=kind, schedule=horizon, evaluation=plan, campaign=campaign)
    client.create_run(RunRequest(config=config))
    run = client.claim_run(RunClaim(learner=LEARNER))
    assert run is not None
    return run


def publish(client: Client, data: Path, run: RunView, answer: str, delay_s: float = 0.0) -> int:
    """Train one step: lease its batch, publish a version that gives `answer`, acknowledge.

    Several answers are separated by `|`. Returns the version.
    """
    batch = client.lease_batch(BatchRequest(run_id=run.id, learner=LEARNER, step=0, horizon=2))
    directory = script(data / "versions" / run.id, *answer.split("|"), delay_s=delay_s)
    version = client.publish(
        PolicyPublish(
            run_id=run.id,
            learner=LEARNER,
            step=0,
            path=str(directory),
            manifest_sha256=write_manifest(directory, {"kind": run.config.kind}),
            probe=Probe(token_ids=PROBE, logprobs=scripted_logprobs(directory, PROBE)),
        )
    ).version
    client.acknowledge_batch(
        batch.id, BatchAck(learner=LEARNER, state="trained", policy_version=version, metrics={"entropy": 0.5})
    )
    return version


def end(client: Client, run: RunView, state: str = "done") -> None:
    """End a run."""
    client.end_run(run.id, RunEnd(learner=LEARNER, state=state, reason="tested"))


def decided(client: Client, run: RunView) -> RunView:
    """Wait until the gate has decided; return the run."""
    until(lambda: client.run(run.id).gate != "due", "nothing was decided")
    return client.run(run.id)


def trained(
    live: Live,
    answer: str,
    kind: str = "full",
    state: str = "done",
    plan: EvaluationPlan = PLAN,
    campaign: str | None = None,
) -> RunView:
    """Carry out a whole run, and wait for the gate."""
    run = begin(live.client, kind, plan, campaign)
    publish(live.client, live.parts.settings.data_dir, run, answer)
    end(live.client, run, state)
    asyncio.run_coroutine_threadsafe(live.parts.gate.check(), live.loop).result(timeout=60)  # It checks once a second.
    return decided(live.client, run)
