"""The server's environments behind AgentGym's protocol, message by message over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from env_adapters import environment_spec
from server.api.served import guests
from tests.support.environments.guests import (
    SOLUTION,
    TASK,
    TASKS,
    agentgym,
    recorded,
)
from tests.support.live import Live, until


def test_an_agentgym_client_plays_a_task_and_it_is_recorded(live: Live) -> None:
    made = agentgym(live, "create", {"minecraft_dir": "agentenv_textcraft/", "commands": None, "goal": None})
    assert made == {"id": 0, "observation": "", "reward": 0.0, "score": 0.0, "done": False}
    begun = agentgym(live, "reset", {"id": 0, "data_idx": TASK})
    assert begun["observation"].endswith("Goal: craft acacia planks.")
    assert "get N item" in begun["instructions"] and begun["task_name"] == "1/acacia_planks"
    steps = [agentgym(live, "step", {"id": 0, "action": action}) for action in SOLUTION]
    assert steps == [
        {"observation": "Got 1 acacia logs", "reward": 0.0, "score": 0.0, "done": False},
        {"observation": "Crafted 4 acacia planks", "reward": 1.0, "score": 1.0, "done": True},
    ]
    assert live.http.get("/agentgym/textcraft/observation?id=0").json() == "Crafted 4 acacia planks"
    assert [agentgym(live, "close", {"id": 0}) for _ in range(2)] == [True, False]
    (episode,) = recorded(live)
    assert (episode.environment, episode.task, episode.seed) == ("textcraft", "1/acacia_planks", 0)
    assert (episode.status, episode.reward, episode.trainable) == ("terminated", 1.0, False)
    assert [step.action for step in episode.steps] == [*SOLUTION]
    assert episode.metadata == {"protocol": "agentgym"}


def test_data_idx_counts_through_train_tasks_then_test_tasks_then_the_next_seed(live: Live) -> None:
    ident = agentgym(live, "create")["id"]
    said = [agentgym(live, "reset", {"id": ident, "data_idx": index}) for index in (0, 543, 544, 545)]
    assert [one["task_name"] for one in said] == [TASKS[0], TASKS[-1], TASKS[0], TASKS[1]]
    assert [episode.seed for episode in recorded(live)] == [0, 0, 1, 1]


def test_agentgym_errors_have_status_200_as_on_its_own_servers(live: Live) -> None:
    assert agentgym(live, "step", {"id": 99, "action": "x"}) == {"error": "The id 99 is not valid."}
    assert agentgym(live, "reset", {"id": 99, "data_idx": 0}) == {"error": "The id 99 is not valid."}
    ident = agentgym(live, "create")["id"]
    assert agentgym(live, "step", {"id": ident, "action": "x"}) == {"error": "no task has begun: reset first"}
    agentgym(live, "reset", {"id": ident, "data_idx": TASK})
    assert agentgym(live, "step", {"id": ident, "action": "a\0b"})["observation"].startswith("Not an action.")
    for action in SOLUTION:
        agentgym(live, "step", {"id": ident, "action": action})
    refused = agentgym(live, "step", {"id": ident, "action": "inventory"})
    assert refused == {"error": f"The task with environment {ident} has finished."}
    assert agentgym(live, "step", {"id": ident, "action": "x"}, "gymnasium:Taxi-v4")["error"].endswith("not valid.")
    assert live.http.get(f"/agentgym/textcraft/available_actions?id={ident}").json() == {
        "available_actions": ["get", "craft", "inventory"]
    }
    assert live.http.post("/agentgym/nothing/create").status_code == 404
    for wrong in ({"id": "0"}, {"id": 0, "data_idx": -1}, {}):
        assert live.http.post("/agentgym/textcraft/reset", json=wrong).status_code == 400


def test_an_environment_with_a_colon_and_a_slash_in_its_name_is_served(live: Live) -> None:
    assert live.http.get("/agentgym/gymnasium:FrozenLake-v1/").json() == "This is environment gymnasium:FrozenLake-v1."
    ident = agentgym(live, "create", environment="gymnasium:FrozenLake-v1")["id"]
    begun = agentgym(live, "reset", {"id": ident, "data_idx": 3}, "gymnasium:FrozenLake-v1")
    assert begun["observation"].startswith("[S]FFF")
    assert live.http.get("/openenv/gymnasium:FrozenLake-v1/health").json() == {"status": "healthy"}
    assert live.http.get("/openenv/gymnasium:phys2d/CartPole-v1/metadata").json()["name"].endswith("phys2d/CartPole-v1")


def test_the_next_task_or_a_departure_closes_the_previous_tasks_episode(live: Live) -> None:
    ident = agentgym(live, "create")["id"]
    agentgym(live, "reset", {"id": ident, "data_idx": 0})
    agentgym(live, "reset", {"id": ident, "data_idx": 1})
    agentgym(live, "close", {"id": ident})
    assert [(e.status, e.reason) for e in recorded(live)] == [
        ("closed", "the next task began"),
        ("closed", "its client closed it"),
    ]
    until(lambda: live.parts.environments.health.open == 0, "an environment is still open")


def test_too_many_guests_evict_the_least_recently_used_guest(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "KEPT", 2)
    one, two = (agentgym(live, "create")["id"] for _ in range(2))
    for ident in (two, one):
        agentgym(live, "reset", {"id": ident, "data_idx": TASK})
    three = agentgym(live, "create")["id"]
    assert agentgym(live, "step", {"id": two, "action": "inventory"}) == {"error": f"The id {two} is not valid."}
    assert agentgym(live, "step", {"id": one, "action": "inventory"})["done"] is False
    assert "error" not in agentgym(live, "reset", {"id": three, "data_idx": 0})
    assert [e.status for e in recorded(live)] == ["closed", "open", "open"]


def test_scienceworlds_score_is_on_agentgyms_scale_while_its_rewards_are_not(live: Live) -> None:
    spec = environment_spec("sciworld")
    if command := spec.missing():
        pytest.skip(command)
    index = [*spec.tasks("train"), *spec.tasks("test")].index("lifespan-longest-lived/3")
    ident = agentgym(live, "create", environment="sciworld")["id"]
    seen = []
    for actions in (("zzz", "focus on egg parrot"), ("focus on air",)):
        agentgym(live, "reset", {"id": ident, "data_idx": index}, "sciworld")
        steps = [agentgym(live, "step", {"id": ident, "action": action}, "sciworld") for action in actions]
        seen += [(step["reward"], step["score"], step["done"]) for step in steps]
    agentgym(live, "close", {"id": ident}, "sciworld")
    assert seen == [(0.0, 50, False), (1.0, 100, True), (0.0, -100, True)]
    assert [episode.reward for episode in recorded(live)] == [1.0, 0.0]


def test_agentgyms_searchqa_client_plays_in_its_own_dialect(cache: Path, live: Live) -> None:
    spec = environment_spec("search")
    if command := spec.missing():
        pytest.skip(command)
    task = "2/former-zaire/capital"
    index = [*spec.tasks("train"), *spec.tasks("test")].index(task)
    number = agentgym(live, "create", {"id": 0}, "search")
    assert isinstance(number, int)
    first = agentgym(live, "reset", {"id": index, "env_idx": number}, "search")
    assert isinstance(first, str) and "<search>words</search>" in first and "Question: " in first
    found = agentgym(live, "step", {"action": "<think>so</think><search>Zaire</search>", "env_idx": number}, "search")
    assert found["observation"].startswith("<information>") and (found["reward"], found["done"]) == (0.0, False)
    assert live.http.get(f"/agentgym/search/observation?env_idx={number}").json() == found["observation"]
    last = agentgym(live, "step", {"action": "<answer>Kinshasa</answer>", "env_idx": number}, "search")
    assert (last["reward"], last["done"]) == (1.0, True)
    refused = [
        live.http.post(f"/agentgym/search/{path}", json=body).status_code
        for path, body in (
            ("step", {"action": "<search>a</search>", "env_idx": number}),
            ("step", {"action": "<search>a</search>", "env_idx": 99}),
            ("step", {"env_idx": number}),
            ("reset", {"id": 0, "env_idx": "0"}),
            ("reset", {"id": -1, "env_idx": number}),
        )
    ]
    assert refused == [409, 404, 400, 400, 400]
    assert live.http.get("/agentgym/search/observation").status_code == 400
    assert [agentgym(live, "close", {"env_idx": number}, "search") for _ in range(2)] == [True, False]
    assert [(episode.task, episode.reward) for episode in recorded(live)] == [(task, 1.0)]
