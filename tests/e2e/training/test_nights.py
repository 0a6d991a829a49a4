"""What the gate's decision on one night of a campaign means for the users, and for the next night."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.live import Live
from tests.support.runs.gated import begin, decided, end, publish, served, trained
from tests.support.runs.scripted import LEARNER, says
from upturn.client import UpturnAPIError
from upturn.command.app import build
from upturn.wire import (
    BatchRequest,
    RunBudget,
    RunClaim,
    RunConfig,
    RunFollows,
    RunRequest,
    StepwiseHorizon,
)

NAME = "nightly"


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_an_unproved_night_is_continued_while_users_keep_the_champion(tmp_path: Path, kind: str) -> None:
    with served(tmp_path, kind) as live:
        first = trained(live, "add 1", kind, campaign=NAME)
        assert (first.gate, first.first_step) == ("continued", 0)
        assert says(live) == says(live, "policy@head") == ("add 1", "policy@0")
        assert live.client.promotions().data[0].action == "continue"
        second = trained(live, "win", kind, campaign=NAME)
        assert (second.gate, second.first_step) == ("promoted", 1)
        assert second.follows == RunFollows(run_id=first.id, step=1)
        assert says(live)[0] == "win"
        third = trained(live, "add 2", kind, campaign=NAME)
        assert (third.gate, third.follows) == ("rejected", RunFollows(run_id=second.id, step=1))
        assert says(live)[0] == "win"
        fourth = begin(live.client, kind, campaign=NAME)
        assert (fourth.follows, fourth.first_step, fourth.attempt) == (RunFollows(run_id=second.id, step=1), 2, 1)
        campaign = live.client.campaign(NAME)
        assert [night.outcome for night in campaign.nights] == ["continue", "promote", "revert", "open"]
        assert [night.first_step for night in campaign.nights] == [0, 1, 2, 2]
        assert [each.name for each in live.client.campaigns().data] == [NAME]
        shown = CliRunner().invoke(build(), ["campaigns", NAME, "--server", live.url, "--json"])
        assert [night["outcome"] for night in json.loads(shown.output)["nights"]] == [
            night.outcome for night in campaign.nights
        ]
        table = CliRunner().invoke(build(), ["campaigns", NAME, "--server", live.url])
        assert table.exit_code == 0 and "2-2 (0 trained)" in table.output and "revert" in table.output


def test_a_restart_between_nights_changes_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        first = trained(live, "add 1", campaign=NAME)
    with served(tmp_path) as live:
        assert says(live) == ("add 1", "policy@0")
        assert begin(live.client, campaign=NAME).follows == RunFollows(run_id=first.id, step=1)


def test_a_run_by_itself_is_rejected_where_a_campaign_continues(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        assert trained(live, "add 1").gate == "rejected"
        alone = begin(live.client)
        assert (alone.follows, alone.first_step, alone.config.campaign) == (None, 0, None)
        assert live.client.campaigns().data == []


def test_a_failed_night_is_continued_and_a_collapsed_one_is_not(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        assert trained(live, "add 1", state="failed", campaign=NAME).gate == "continued"
        collapsed = begin(live.client, campaign=NAME)
        publish(live.client, live.parts.settings.data_dir, collapsed, "win")
        live.http.post(
            f"/v1/runs/{collapsed.id}/end",
            json={"learner": LEARNER, "state": "failed", "reason": "it repeats itself", "collapsed": True},
        ).raise_for_status()
        assert decided(live.client, collapsed).gate == "rejected"
        assert begin(live.client, campaign=NAME).follows is None


def test_a_learner_may_repeat_the_steps_of_earlier_nights_of_its_campaign_only(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        first, other = trained(live, "add 1", campaign=NAME), trained(live, "add 1", campaign="other")
        begin(live.client, campaign=NAME)

        def repeat(run_id: str, step: int = 0, learner: str = LEARNER) -> str | None:
            request = BatchRequest(run_id=run_id, learner=learner, step=step, horizon=2, replay=True)
            try:
                live.client.lease_batch(request)
            except UpturnAPIError as error:
                return error.code
            return None

        assert repeat(first.id) is None
        assert repeat(first.id, step=1) == "batch_not_trained"
        assert repeat(first.id, learner="another") == repeat(other.id) == "run_ended"


def test_the_first_step_waits_for_the_champions_evaluation(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        run = begin(live.client, campaign=NAME)
        request = BatchRequest(run_id=run.id, learner=LEARNER, step=0, horizon=2)
        while not live.client.ready_for_batch(request):
            pass
        assert live.client.run(run.id).play_id is None, "asking starts nothing"
        publish(live.client, live.parts.settings.data_dir, run, "win")
        end(live.client, run)
        assert decided(live.client, run).gate == "promoted"


def test_a_schedule_that_never_leaves_its_first_horizon_needs_a_campaign(live: Live) -> None:
    schedule = StepwiseHorizon(rounds=[10, 20], every=40)
    with pytest.raises(UpturnAPIError, match="schedule_never_advances"):
        live.client.create_run(RunRequest(config=RunConfig(steps=40, schedule=schedule)))
    live.client.create_run(RunRequest(config=RunConfig(steps=41, schedule=schedule)))
    short = RunBudget(steps=40)
    with pytest.raises(UpturnAPIError, match="schedule_never_advances: the run has 40 steps"):
        live.client.create_run(RunRequest(config=RunConfig(steps=300, schedule=schedule, budget=short)))
    twice = StepwiseHorizon(rounds=[10, 10, 20], every=40)
    with pytest.raises(UpturnAPIError, match="for at least 80"):
        live.client.create_run(RunRequest(config=RunConfig(steps=80, schedule=twice)))
    live.client.create_run(RunRequest(config=RunConfig(steps=40, schedule=schedule, campaign=NAME)))


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_kind_and_learning_rate_follow_the_served_weights(tmp_path: Path, kind: str) -> None:
    with served(tmp_path, kind) as live:
        run = live.client.create_run(RunRequest(config=RunConfig(steps=1)))
        assert (run.config.kind, run.config.optimizer.lr) == (kind, 1e-6 if kind == "full" else 2e-5)
        assert live.client.claim_run(RunClaim(learner=LEARNER)) is not None


def test_an_unknown_campaign_is_not_found(live: Live) -> None:
    with pytest.raises(UpturnAPIError, match="campaign_not_found"):
        live.client.campaign("none")
    assert live.http.post("/v1/runs", json={"config": {"steps": 1, "campaign": "Bad name"}}).status_code == 400
