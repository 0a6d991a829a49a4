"""The server's environments behind OpenEnv's protocol, message by message over real sockets."""

from __future__ import annotations

import json

import pytest
import websockets

from tests.support.environments.guests import (
    SOLUTION,
    TEXTCRAFT,
    ask,
    openenv,
    recorded,
)
from tests.support.live import Live, until


def test_an_openenv_client_plays_a_task_and_it_is_recorded(live: Live) -> None:
    with openenv(live) as socket:
        assert ask(socket, "state") == {"type": "state", "data": {"episode_id": None, "step_count": 0, "task": None}}
        begun = ask(socket, "reset", task="1/acacia_planks", seed=7, episode_id="theirs-1", more="is ignored")
        assert begun["type"] == "observation"
        assert "get N item" in begun["data"]["observation"]["message"]
        assert begun["data"]["observation"]["message"].endswith("Goal: craft acacia planks.")
        one, two = (ask(socket, "step", message=action)["data"] for action in SOLUTION)
        assert (one["observation"], one["reward"], one["done"]) == ({"message": "Got 1 acacia logs"}, 0.0, False)
        assert (two["observation"], two["reward"], two["done"]) == ({"message": "Crafted 4 acacia planks"}, 1.0, True)
        state = ask(socket, "state")["data"]
        assert (state["step_count"], state["task"]) == (2, "1/acacia_planks")
        assert ask(socket, "step", message="inventory")["data"]["code"] == "EXECUTION_ERROR"
    (episode,) = recorded(live)
    assert (episode.id, episode.status, episode.reward, episode.seed) == (state["episode_id"], "terminated", 1.0, 7)
    assert episode.metadata == {"protocol": "openenv", "label": "theirs-1"}


def test_a_seed_alone_selects_a_training_task(live: Live) -> None:
    train = TEXTCRAFT.tasks("train")
    with openenv(live) as socket:
        for seed in (0, 1, len(train) + 1):
            ask(socket, "reset", seed=seed)
        ask(socket, "reset")
    assert [(e.task, e.seed) for e in recorded(live)] == [(train[0], 0), (train[1], 0), (train[1], 1), (train[0], 0)]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[" * 100_000, "VALIDATION_ERROR"),
        (b"\0\1", "INVALID_JSON"),
        ("7", "UNKNOWN_TYPE"),
        ('{"type": "dance"}', "UNKNOWN_TYPE"),
        ('{"type": "\\ud800"}', "INVALID_JSON"),
        ('{"type": "step"}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": 3}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"message": 3}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"text": "x"}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"seed": -1}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"episode_id": "\\u0000"}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"message": "x"}}', "EXECUTION_ERROR"),
        ('{"type": "reset", "data": {"task": "1/unicorn"}}', "EXECUTION_ERROR"),
    ],
)
def test_a_malformed_openenv_message_gets_an_error_and_the_session_continues(
    live: Live, message: str | bytes, code: str
) -> None:
    with openenv(live) as socket:
        socket.send(message)
        error = json.loads(socket.recv())
        assert (error["type"], error["data"]["code"]) == ("error", code)
        assert ask(socket, "reset", task="1/acacia_planks")["type"] == "observation"


def test_an_openenv_client_that_disconnects_or_dies_closes_its_episode(live: Live) -> None:
    with openenv(live) as polite, openenv(live) as rude:
        for socket in (polite, rude):
            ask(socket, "reset", seed=1)
        polite.send('{"type": "close"}')
        with pytest.raises(websockets.ConnectionClosedOK):
            polite.recv()
        rude.socket.close()
        until(lambda: live.parts.environments.health.open == 0, "an environment is still open")
    until(lambda: all(e.status == "closed" for e in recorded(live)), "an episode is still open")
    assert [e.reason for e in recorded(live)] == ["its client left"] * 2


def test_a_browser_page_from_another_site_cannot_play(live: Live) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused, openenv(live, origin="https://elsewhere.example"):
        pass
    assert refused.value.response.status_code == 403
    assert b"pages from https://elsewhere.example may not connect" in (refused.value.response.body or b"")
    assert recorded(live) == []
    with openenv(live, origin=live.url) as socket:
        assert ask(socket, "reset", seed=1)["type"] == "observation"


def test_the_openenv_routes_describe_the_environment(live: Live) -> None:
    schema = live.http.get("/openenv/textcraft/schema").json()
    assert schema["action"]["required"] == ["message"]
    assert schema["observation"]["properties"]["message"]["type"] == "string"
    assert live.http.get("/openenv/textcraft/state").json()["step_count"] == 0
    assert live.http.get("/openenv/nothing/health").status_code == 404
    with openenv(live, "nothing") as socket:
        assert json.loads(socket.recv())["data"]["code"] == "SESSION_ERROR"
