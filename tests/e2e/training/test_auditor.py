"""The auditor: loopholes that GRPO finds are objections, and an honest candidate is promoted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engines.settings import EngineSettings
from server.environments.settings import EnvironmentSettings
from server.training.settings import GateSettings, LearnerSettings
from tests.support.environments.first_byte import make_spec
from tests.support.live import Live, serving, settings_for, until
from tests.support.runs.gated import begin, served, trained
from tests.support.runs.learned import wait_for
from tests.support.runs.scripted import says
from tests.support.tiny_model import make_tiny_model
from upturn.wire import (
    EvaluationPlan,
    FixedHorizon,
    GateEvidence,
    OptimizerConfig,
    PlayPlan,
    PromotionView,
    RunConfig,
    RunRequest,
    RunView,
    Sampling,
)

SHORT = Sampling(max_tokens=2)
TASKS = make_spec().lists
STEPS = 3


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Serve a tiny random model with adapters, a learner, and two games: one honest, one with a loophole."""
    directory = tmp_path_factory.mktemp("auditor")
    names = ("first_byte", "shrugging")
    settings = settings_for(
        directory / "data",
        model=str(make_tiny_model(directory / "model")),
        engine=EngineSettings(kind="local", dtype="float32", context_tokens=256, max_concurrent=32),
        weights="adapter",
        learner=LearnerSettings(start=True, threads=1),
        environments=EnvironmentSettings(modules=[f"tests.support.environments.{name}" for name in names], workers=0),
    )
    with serving(settings) as live:
        yield live


def decision(live: Live, environment: str) -> tuple[RunView, PromotionView, GateEvidence]:
    """Train with GRPO in an environment; return the run, and how the gate decided on it."""
    config = RunConfig(
        steps=STEPS,
        kind="adapter",
        evaluation=EvaluationPlan(tasks={environment: TASKS["test"]}, repetitions=4, sampling=SHORT),
        schedule=FixedHorizon(horizon=1),
        optimizer=OptimizerConfig(lr=1e-2),
        play=PlayPlan(environment=environment, tasks=TASKS["train"], groups=8, group_size=8, sampling=SHORT),
    )
    run = wait_for(live, live.client.create_run(RunRequest(config=config)).id)
    assert run.state == "done", run.reason
    until(lambda: live.client.run(run.id).gate != "due", "nothing was decided", 120)
    entry = next(row for row in live.client.promotions().data if row.run_id == run.id)
    assert isinstance(entry.evidence, GateEvidence)
    return live.client.run(run.id), entry, entry.evidence


def test_a_loophole_in_the_verdict_is_found_by_grpo_and_named_by_the_gate(learning: Live) -> None:
    run, entry, evidence = decision(learning, "shrugging")
    (found,) = [finding for finding in evidence.audit if finding.flagged]
    assert (run.gate, evidence.promoted, evidence.flagged, entry.action) == ("rejected", False, True, "reject")
    assert evidence.gain is not None and evidence.gain.mean > 0, "by its verdict the environment sees an improvement"
    assert found.feature == "no_action" and found.candidate > found.champion + 0.1
    assert found.sentence in entry.reason and f"to {found.candidate:.1%}" in found.sentence
    assert len(set(found.episodes)) == 3
    for name in found.episodes:
        episode = learning.client.episode(name)
        assert {turn.policy_version for turn in episode.turns} == {evidence.candidate}
        assert episode.steps[0].info == {"valid": False} and name in found.sentence


def test_an_honest_candidate_of_the_same_training_is_promoted(learning: Live) -> None:
    run, _, evidence = decision(learning, "first-byte")
    assert (run.gate, evidence.promoted, evidence.flagged) == ("promoted", True, False)
    assert {finding.feature for finding in evidence.audit} >= {"no_action", "questions", "answer_tokens"}


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_flagged_night_sends_its_campaign_back_to_the_state_behind_the_champion(tmp_path: Path, kind: str) -> None:
    with served(tmp_path, kind, gate=GateSettings(max_invalid_rise=1)) as live:
        first = trained(live, "win", kind, campaign="nightly")
        assert first.gate == "promoted"
        flagged = trained(live, "nonsense|win", kind, campaign="nightly")
        entry = live.client.promotions().data[0]
        assert isinstance(entry.evidence, GateEvidence) and entry.evidence.flagged and not entry.evidence.worse
        assert flagged.gate == "rejected" and "turns without an action" in entry.reason
        assert says(live) == ("win", "policy@1")
        assert [night.outcome for night in live.client.campaign("nightly").nights] == ["promote", "revert"]
        again = begin(live.client, kind, campaign="nightly")
        assert again.follows is not None and again.follows.run_id == first.id
