"""Plays with tools, with solvers and at random; and `python -m env_adapters`, which plays without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from env_adapters.__main__ import main
from tests.support.environments.episodes import MODULES, Serve
from tests.support.live import Live
from upturn.wire import BatchRequest, LivePlan, PlayRequest, PlayView, RunClaim, RunConfig, RunRequest

ROOT = Path(__file__).parents[2]
ODD = ("--module", MODULES[1])
CALL = '<tool_call>\n{"name": "add", "arguments": {"number": 2}}\n</tool_call>'


def played(live: Live, **request: object) -> PlayView:
    """Play and wait for the end."""
    body = {"environment": "odd-thread", "tasks": ["train/0"], "horizon": 5, "sampling": {"max_tokens": 200}, **request}
    return live.client.wait_for_play(live.client.start_play(PlayRequest.model_validate(body)).id)


def test_a_policy_plays_with_tools_and_gets_their_results(serve: Serve) -> None:
    live = serve(CALL, "add 1", '<tool_call>{"name": "take", "arguments": {}}</tool_call>', "win")
    (result,) = played(live, tools=True).results
    assert (result.status, result.success, result.turns) == ("terminated", True, 4)
    episode = live.client.episode(result.episode_id)
    assert [(step.action, step.observation) for step in episode.steps] == [
        ("add 2", "2"),
        ("add 1", "3"),
        ("take({})", "there is only add, with a number"),
        ("win", "won"),
    ]
    assert [step.info for step in episode.steps] == [{}, {}, {"valid": False}, {}]
    call = episode.turns[0].answer["tool_calls"][0]
    assert episode.turns[1].messages == [{"role": "tool", "tool_call_id": call["id"], "content": "2"}]
    assert episode.turns[2].messages == [{"role": "user", "content": "3"}]
    assert all(turn.trainable for turn in episode.turns)
    assert episode.turns[3].token_ids[: len(episode.turns[2].token_ids)] == episode.turns[2].token_ids


def test_without_tools_a_call_is_only_text(serve: Serve) -> None:
    live = serve(CALL, "win")
    (result,) = played(live).results
    assert live.client.episode(result.episode_id).steps[0].observation.startswith("cannot")


@pytest.mark.parametrize(
    "request_",
    [{"tools": True, "agent": "oracle"}, {"tools": True, "environment": "gymnasium:none"}, {"agent": "nobody"}],
)
def test_an_inconsistent_play_is_refused(serve: Serve, request_: dict[str, object]) -> None:
    body = {"environment": "odd-thread", "tasks": ["train/0"], "horizon": 5, **request_}
    assert serve().http.post("/v1/plays", json=body).status_code in (400, 404)


def test_a_random_player_is_reproducible_varies_within_a_group_and_is_never_trained_on(serve: Serve) -> None:
    live = serve()
    plays = [played(live, agent="random", group_size=6, seed=5, horizon=8) for _ in range(2)]
    one, two = (
        sorted([step.action for step in live.client.episode(result.episode_id).steps] for result in play.results)
        for play in plays
    )
    assert one == two and len({tuple(actions) for actions in one}) > 1
    episode = live.client.episode(plays[0].results[0].episode_id)
    assert not episode.trainable and episode.turns[0].policy_version is None
    live.client.create_run(RunRequest(config=RunConfig(steps=1, algorithm="sft", live=LivePlan(min_episodes=1))))
    run = live.client.claim_run(RunClaim(learner="t"))
    assert run is not None
    assert live.client.lease_batch(BatchRequest(run_id=run.id, learner="t", step=0, horizon=8)).samples == []


def test_a_failing_environment_ends_its_episode_as_an_error_and_the_play_continues(serve: Serve) -> None:
    live = serve("loop", "win")
    done = played(live, tasks=["train/0", "train/1"])
    assert (done.state, done.finished, done.errors, done.succeeded) == ("done", 2, 2, 0)
    assert {live.client.episode(result.episode_id).error_class for result in done.results} == {"EnvironmentTimeout"}
    assert {result.success for result in done.results} == {None}


def test_a_hanging_solver_fails_its_episode_and_a_missing_solver_is_reported(serve: Serve) -> None:
    live = serve()
    done = played(live, tasks=["train/13", "train/1"], agent="oracle")
    assert (done.state, done.errors, done.succeeded) == ("done", 1, 1)
    assert {result.status for result in done.results} == {"error", "terminated"}
    (none,) = played(live, tasks=["train/14"], agent="oracle").results
    assert live.client.episode(none.episode_id).reason == "odd-thread has no oracle"


def test_the_command_lists_environments_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", *ODD]) == 0
    assert "odd-thread   thread  1500 train, 3 test       Does what it is told." in capsys.readouterr().out
    assert main(["tasks", "odd-thread", "--split", "test", *ODD]) == 0
    assert capsys.readouterr().out == "test/0\ntest/1\ntest/2\n"


def test_the_command_plays_and_prints_the_transcript(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "textcraft", "--task", "1/acacia_planks"]) == 0
    told = capsys.readouterr().out
    assert "Goal: craft acacia planks." in told and "[1] > get 1 acacia logs\nGot 1 acacia logs\n" in told
    assert "-- success: reward 1 in 2 steps" in told
    assert main(["play", "textcraft", "--episodes", "4", "--policy", "random", "--horizon", "3", "--json"]) == 0
    first = capsys.readouterr().out
    assert main(["play", "textcraft", "--episodes", "4", "--policy", "random", "--horizon", "3", "--json"]) == 0
    summary, again = json.loads(first), json.loads(capsys.readouterr().out)
    assert summary["episodes"] == len(summary["played"]) == 4
    assert [one["messages"] for one in summary["played"]] == [one["messages"] for one in again["played"]]


def test_the_command_plays_a_model_by_its_url_with_tools(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    live = serve(CALL, "win")
    line = ["play", "odd-thread", *ODD, "--policy", "openai", "--base-url", f"{live.url}/v1", "--json"]
    for more, first in (([], "cannot"), (["--tools"], "2")):
        assert main([*line, *more]) == 0
        (one,) = json.loads(capsys.readouterr().out)["played"]
        assert one["success"] and one["steps"] == 2 and one["messages"][2]["content"].startswith(first)
        assert one["messages"][2]["role"] == ("tool" if more else "user")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plaz", "textcraft"], "Did you mean 'play'?"),
        (["play", "textcraft", "--polic", "random"], "--policy"),
        (["play", "textcraft", "--policy", "orcle"], "'oracle'"),
        (["play", "textcraft", "--seed", "x"], "--seed"),
        (["play"], "NAME"),
    ],
)
def test_the_command_explains_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_command_has_help_and_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(command in overview for command in ("list", "tasks", "play", "serve", "--version"))
    assert main(["play", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in (
        "--task",
        "--split",
        "--seed",
        "--episodes",
        "--horizon",
        "--policy",
        "--base-url",
        "--model",
        "--key",
    ):
        assert flag in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("upturn-server ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["play", "nothing"], "no environment 'nothing'"),
        (["tasks", "textcraft", "--split", "x"], "no split 'x'"),
        (["play", "textcraft", "--task", "x"], "no TextCraft task 'x'"),
        (["list", "--module", "not.there"], "No module named 'not'"),
        (["play", "textcraf"], "did you mean 'textcraft'?"),
    ],
)
def test_the_command_reports_an_error_in_one_line(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "env_adapters", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
