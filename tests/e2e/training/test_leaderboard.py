"""The leaderboard: policies and endpoints measured on the same tasks, with nothing to choose among."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from server.environments.settings import EnvironmentSettings
from tests.support.live import Live, script, serving, settings_for
from upturn.client import UpturnAPIError
from upturn.command.app import build
from upturn.endpoint import Endpoint, EndpointError
from upturn.measuring import play_entry
from upturn.wire import EpisodeOpen, LeaderboardEnd, LeaderboardEntry, LeaderboardRequest, Price, Sampling

RIGHT = {"a/1": "yes", "a/2": "no", "b/1": "yes", "b/2": "yes"}
TASKS = list(RIGHT)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of prompts, at one path: an environment's name has one meaning in a process."""
    path = tmp_path_factory.mktemp("prompts") / "quiz.jsonl"
    lines = [{"task": task, "prompt": f"{task}?", "contains": word} for task, word in RIGHT.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def quiz(tmp_path: Path, prompts: Path) -> Iterator[Live]:
    """A server whose policy always says yes, and whose environment wants three yeses and a no."""
    settings = settings_for(
        tmp_path / "data",
        model=str(script(tmp_path / "script", "yes")),
        environments=EnvironmentSettings(remote={"quiz": f"prompts@{prompts}"}, workers=0),
    )
    with serving(settings) as live:
        yield live


def request(live: Live, **changes: Any) -> LeaderboardRequest:
    values = {"label": "row", "endpoint": f"{live.url}/v1", "model": "policy", "tasks": TASKS, "repetitions": 2}
    return LeaderboardRequest(**{**values, "environment": "quiz", "horizon": 3, **changes})


def endpoint(live: Live, **more: Any) -> Endpoint:
    return Endpoint(f"{live.url}/v1", "policy", sampling=Sampling(temperature=0.0), sleep=lambda _: None, **more)


def measured(live: Live, entry: LeaderboardEntry, **more: Any) -> LeaderboardEntry:
    with endpoint(live, **more) as model:
        return play_entry(live.client, entry, model, lambda *_: None)


def test_an_endpoint_and_the_same_policy_have_the_same_figures(quiz: Live) -> None:
    command = [
        *("eval", "--environment", "quiz", "--repetitions", "2", "--horizon", "3", "--temperature", "0"),
        *("--at-once", "1", "--server", quiz.url, "--json"),
    ]
    shown = [
        json.loads(CliRunner().invoke(build(), [*command, "--model", *model], catch_exceptions=False).stdout)
        for model in (["policy"], ["policy@champion"], [f"{quiz.url}/v1", "--name", "policy", "--price", "1,2"])
    ]
    policy, again, other = map(LeaderboardEntry.model_validate_json, map(json.dumps, shown))
    assert (policy.state, policy.request.policy, policy.policy_version) == ("done", "policy@0", 0)
    assert policy.figures == again.figures == other.figures
    success = policy.figures.success
    assert success is not None and (success.tasks, success.episodes, success.success) == (4, 8, 0.75)
    assert success.low < 0.4 and 0.9 < success.high < 1
    assert {name: share.success for name, share in policy.figures.families.items()} == {"a": 0.5, "b": 1.0}
    assert (policy.figures.expected, policy.figures.finished, policy.figures.errors) == (8, 8, 0)
    assert (policy.figures.mean_reward, policy.figures.mean_turns) == (0.75, 1.0)
    assert (other.prompt_tokens, other.completion_tokens) == (policy.prompt_tokens, policy.completion_tokens)
    assert other.prompt_tokens and other.completion_tokens
    assert other.cost_usd == pytest.approx((other.prompt_tokens + 2 * other.completion_tokens) / 1e6)
    episodes = quiz.client.episodes(environment="quiz", limit=100).data
    assert len(episodes) == 24 and not any(episode.trainable for episode in episodes)
    listed = CliRunner().invoke(build(), ["leaderboard", "--server", quiz.url], catch_exceptions=False)
    assert listed.stdout.count("75.0% [") == 3 and listed.stdout.count("policy@0 ") == 2
    assert [entry.id for entry in quiz.client.leaderboard("quiz").data] == [other.id, again.id, policy.id]
    assert quiz.client.leaderboard("other").data == []


def failing_after(count: int) -> Callable[[httpx2.Request], httpx2.Response]:
    """Return answers of an endpoint that says yes some times and is then away."""
    left = [count]

    def answer(_: httpx2.Request) -> httpx2.Response:
        left[0] -= 1
        if left[0] < 0:
            return httpx2.Response(503, text="away")
        return httpx2.Response(200, json={"choices": [{"message": {"role": "assistant", "content": "yes"}}]})

    return answer


def test_an_interrupted_entry_is_continued_and_no_episode_counts_twice(quiz: Live) -> None:
    entry = quiz.client.add_to_leaderboard(request(quiz, at_once=1))
    with pytest.raises(EndpointError, match="gave no answer: 503: away"):
        measured(quiz, entry, transport=httpx2.MockTransport(failing_after(3)))
    half = quiz.client.leaderboard_entry(entry.id)
    assert (half.state, half.figures.finished, half.figures.expected) == ("running", 3, 8)
    left_open = EpisodeOpen(environment="quiz", task=TASKS[3], horizon=3, group=entry.group_of(3), trainable=False)
    quiz.client.open_episode(left_open)  # What a killed program leaves.
    whole = measured(quiz, half)
    assert (whole.state, whole.figures.finished, whole.figures.errors) == ("done", 8, 0)
    assert whole.prompt_tokens is None, "the first program's tokens are not known"
    assert len(quiz.client.episodes(environment="quiz", limit=100).data) == 8


def play(live: Live, entry: LeaderboardEntry, number: int, task: str, **changes: Any) -> None:
    """Play one episode of an entry."""
    values = {"environment": "quiz", "task": task, "horizon": 3, "group": entry.group_of(number), "trainable": False}
    live.client.step(live.client.open_episode(EpisodeOpen(**{**values, **changes})).id, "yes")


def test_an_entry_is_done_only_with_exactly_its_episodes(quiz: Live) -> None:
    def refused(end: LeaderboardEnd | None = None) -> str:
        with pytest.raises(UpturnAPIError) as error:
            quiz.client.end_leaderboard_entry(entry.id, end or LeaderboardEnd())
        return str(error.value)

    entry = quiz.client.add_to_leaderboard(request(quiz, tasks=TASKS[:2], repetitions=1))
    assert "entry_incomplete: task 'a/1' has 0 episodes, not 1" in refused()
    play(quiz, entry, 0, "a/1", trainable=True)
    play(quiz, entry, 0, "a/1", horizon=4)
    play(quiz, entry, 0, "a/1", seed=1)
    assert "task 'a/1' has 0 episodes" in refused(), "these were played otherwise"
    play(quiz, entry, 0, "a/1")
    assert "task 'a/2' has 0 episodes" in refused()
    play(quiz, entry, 1, "b/1")
    assert "is for 'a/2', not 'b/1'" in refused()
    quiz.client.erase_episode(quiz.client.episodes(group=entry.group_of(1)).data[0].id)
    play(quiz, entry, 1, "a/2")
    play(quiz, entry, 1, "a/2")
    assert "task 'a/2' has 2 episodes, not 1" in refused(), "nobody chooses among several tries"
    extra = quiz.client.episodes(group=entry.group_of(1)).data
    quiz.client.erase_episode(extra[0].id)
    done = quiz.client.end_leaderboard_entry(entry.id, LeaderboardEnd(prompt_tokens=5, completion_tokens=6))
    assert done.state == "done" and done.cost_usd is None
    again = quiz.client.end_leaderboard_entry(entry.id, LeaderboardEnd(prompt_tokens=5, completion_tokens=6))
    assert again == done
    assert "entry_ended" in refused(LeaderboardEnd(state="failed", error="no"))
    quiz.client.remove_from_leaderboard(entry.id)
    with pytest.raises(UpturnAPIError, match="404 entry_not_found"):
        quiz.client.leaderboard_entry(entry.id)
    assert len(quiz.client.episodes(environment="quiz").data) == 5, "its episodes stay in the record"


def test_a_policys_entry_ends_with_its_play(quiz: Live) -> None:
    entry = quiz.client.add_to_leaderboard(request(quiz, policy="policy@0", endpoint=None, model=None))
    with pytest.raises(UpturnAPIError, match="400 entry_of_policy"):
        quiz.client.end_leaderboard_entry(entry.id, LeaderboardEnd())
    assert entry.play_id is not None
    quiz.client.wait_for_play(entry.play_id)
    assert quiz.client.leaderboard_entry(entry.id).state == "done"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"environment": "none"}, 404),
        ({"tasks": ["c/1"]}, 404),
        ({"tools": True}, 400),
        ({"policy": "policy@7", "endpoint": None, "model": None}, 404),
    ],
)
def test_what_cannot_be_measured_is_refused(quiz: Live, changes: dict[str, Any], status: int) -> None:
    with pytest.raises(UpturnAPIError) as error:
        quiz.client.add_to_leaderboard(request(quiz, **changes))
    assert error.value.status == status
    assert quiz.client.leaderboard().data == []


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "policy"},
        {"model": None},
        {"endpoint": "https://user:secret@example/v1"},
        {"endpoint": "https://example/v1?key=secret"},
        {"endpoint": "file:///etc/passwd"},
        {"tasks": ["a/1", "a/1"]},
        {"tasks": []},
        {"price": {"prompt": float("nan"), "completion": 1.0}},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(quiz: Live, changes: dict[str, Any]) -> None:
    body = {**request(quiz, price=Price(prompt=1, completion=1)).model_dump(mode="json"), **changes}
    answer = quiz.http.post("/v1/leaderboard", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert "secret" not in json.dumps(quiz.client.leaderboard().model_dump())


def test_an_endpoint_without_room_says_nothing_until_the_horizon(quiz: Live) -> None:
    too_long = httpx2.MockTransport(lambda _: httpx2.Response(400, json={"error": {"code": "context_length_exceeded"}}))
    entry = measured(quiz, quiz.client.add_to_leaderboard(request(quiz)), transport=too_long)
    assert entry.figures.success is not None and entry.figures.success.success == 0
    assert (entry.figures.finished, entry.figures.errors) == (8, 0)
