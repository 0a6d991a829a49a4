"""A person's turns are recorded as demonstrations that `sft` trains on, each exactly once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from env_adapters import environment_spec
from tests.support.live import Live
from tests.support.runs.scripted import ASK, FEW_LIVE, LEARNER
from upturn.wire import BatchRequest, EpisodeOpen, EpisodeOpened, RunClaim, RunConfig, RunRequest

TASK = environment_spec("textcraft").tasks("train")[0]


def opened(live: Live, horizon: int | None = None) -> EpisodeOpened:
    return live.client.open_episode(EpisodeOpen(environment="textcraft", task=TASK, horizon=horizon))


def demonstrate(live: Live, episode: str, messages: list[dict[str, Any]], answer: Any, **more: Any) -> Any:
    body = {"messages": messages, "answer": answer, **more}
    return live.http.post(f"/v1/episodes/{episode}/demonstrations", json=body)


def begun(episode: EpisodeOpened) -> list[dict[str, Any]]:
    return [message.model_dump() for message in episode.messages]


def test_a_person_wins_a_task_and_sft_trains_on_exactly_what_they_wrote(live: Live) -> None:
    solver = environment_spec("textcraft").make()
    solver.reset(TASK, 0)
    episode = opened(live)
    messages, answers = begun(episode), list[str]()
    while True:
        answers.append(solver.oracle())
        result = demonstrate(live, episode.id, messages, answers[-1], turn=len(answers) - 1).json()
        assert result["valid"], result
        solver.step(answers[-1])
        if result["terminated"]:
            break
        messages += [
            {"role": "assistant", "content": answers[-1]},
            {"role": "user", "content": result["observation"]},
        ]
    shown = live.client.episode(episode.id)
    assert (shown.status, shown.reward, result["success"]) == ("terminated", 1.0, True)
    assert [turn.answer["content"] for turn in shown.turns] == [step.action for step in shown.steps] == answers
    assert all(turn.policy_version is None and set(turn.logprobs) == {None} for turn in shown.turns)
    live.client.create_run(RunRequest(config=RunConfig(algorithm="sft", steps=1, live=FEW_LIVE)))
    run = live.client.claim_run(RunClaim(learner=LEARNER))
    assert run is not None
    batch = live.client.lease_batch(BatchRequest(run_id=run.id, learner=LEARNER, step=0, horizon=5))
    (sample,) = batch.samples
    written = bytes(
        token for token, mask in zip(sample.token_ids, sample.loss_mask, strict=True) if mask and token < 256
    )
    assert sample.episode_id == episode.id and all(answer.encode() in written for answer in answers)


def test_an_answer_that_is_sent_twice_or_at_once_counts_once(live: Live) -> None:
    episode = opened(live)
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(demonstrate, live, episode.id, begun(episode), "inventory", turn=0) for _ in range(4)]
        statuses = sorted(one.result().status_code for one in sent)
    assert statuses == [201, 409, 409, 409]
    again = demonstrate(live, episode.id, begun(episode), "inventory", turn=0)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "turn_taken")
    shown = live.client.episode(episode.id)
    assert (len(shown.turns), len(shown.steps)) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"answer": ""},
        {"answer": 7},
        {"answer": "a" * 100_001},
        {"turn": -1},
        {"turn": "0"},
        {"unknown": 1},
        {"messages": [{"role": "user", "content": "a" * 100_000}]},
    ],
)
def test_wrong_demonstrations_are_refused_and_leave_nothing(live: Live, wrong: dict[str, Any]) -> None:
    episode = opened(live)
    body = {"messages": begun(episode), "answer": "inventory", **wrong}
    answer = live.http.post(f"/v1/episodes/{episode.id}/demonstrations", json=body)
    assert answer.status_code == 400, answer.text
    shown = live.client.episode(episode.id)
    assert (shown.status, shown.turns, shown.steps) == ("open", [], [])


def test_characters_that_no_database_holds_are_replaced(live: Live) -> None:
    episode = opened(live)
    assert demonstrate(live, episode.id, begun(episode), "inventory\0").status_code == 201
    shown = live.client.episode(episode.id)
    assert shown.turns[0].answer["content"] == shown.steps[0].action == "inventory\ufffd"


def test_only_open_episodes_of_environments_with_turns_left_take_demonstrations(live: Live) -> None:
    talk = live.client.open_episode(EpisodeOpen())
    refused = demonstrate(live, talk.id, ASK, "Hello.")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_environment")
    short = opened(live, horizon=1)
    assert demonstrate(live, short.id, begun(short), "inventory").json()["truncated"]
    over = demonstrate(live, short.id, begun(short), "inventory")
    assert (over.status_code, over.json()["error"]["code"]) == (409, "episode_ended")
    assert demonstrate(live, "ep_none", ASK, "x").status_code == 404
