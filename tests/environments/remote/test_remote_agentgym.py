"""The client of AgentGym's servers over real sockets.

The other side is this project's own server. AgentGym's other variants have no package, so `elsewhere.py` imitates them.
"""

from __future__ import annotations

import pytest

from env_adapters import environment_spec
from env_adapters.protocol import EnvironmentFailure, Transition, UnknownTask
from env_adapters.remote.agentgym_kinds import KINDS, NoAction
from tests.support.environments.addresses import SOLUTION, TRAIN, begun, named
from tests.support.environments.elsewhere import guessing
from tests.support.live import Live


def test_agentgyms_textcraft_can_be_played_through_its_protocol(live: Live) -> None:
    index = [*TRAIN, *environment_spec("textcraft").tasks("test")].index("1/acacia_planks")
    env, first = begun(f"agentgym:textcraft@{live.url}/agentgym/textcraft", f"textcraft/{index}")
    assert first.endswith("Goal: craft acacia planks.")
    assert env.step("Action: get 1 coal\nAction: get 1 stick").observation.startswith("Error: Only one 'Action'")
    assert env.step("Thought: wood!\nAction: get 1 acacia logs.") == Transition(
        "Got 1 acacia logs", 0.0, False, info={"score": 0.0}
    )
    assert env.step(SOLUTION[1]) == Transition("Crafted 4 acacia planks", 1.0, True, success=True, info={"score": 1.0})
    with pytest.raises(ValueError, match="over"):
        env.step("inventory")
    env.reset("textcraft/0", 0)
    env.close()
    env.close()


def test_an_error_with_status_200_is_a_failure_without_a_reward(live: Live) -> None:
    with pytest.raises(EnvironmentFailure, match="404"):
        begun(f"agentgym:textcraft@{live.url}/agentgym/nothing", "textcraft/0")
    env, _ = begun(f"agentgym:textcraft@{live.url}/agentgym/textcraft", "textcraft/0")
    live.http.post("/agentgym/textcraft/close", json={"id": 0})
    with pytest.raises(EnvironmentFailure, match="The id 0 is not valid"):
        env.step("inventory")
    env.close()


@pytest.mark.parametrize(
    "task", ["", "textcraft", "textcraft/544", "textcraft/-1", "textcraft/01", "babyai/1", "textcraft/1/2"]
)
def test_an_unknown_agentgym_task_is_refused_without_a_request(task: str) -> None:
    with pytest.raises(UnknownTask, match="textcraft/0 to textcraft/543"):
        environment_spec(named("agentgym:textcraft@http://127.0.0.1:9")).make().reset(task, 0)


@pytest.mark.parametrize(
    ("kind", "answer", "action"),
    [
        ("textcraft", "Thought: a\nAction: get 1 redstone_torch!", "get 1 redstonetorch"),
        ("textcraft", "inventory\nand then", "inventory"),
        ("textcraft", "", ""),
        ("babyai", "Action:\n\ngo to  red ball 1", "go to red ball 1"),
        ("sciworld", "Action: look\nAction: open door to kitchen", "open door to kitchen"),
        ("alfworld", "look", "look"),
        ("webshop", "Thought: x\nAction:\nclick[buy now]", "click[buy now]"),
        ("maze", "Action: move up\nAction: move down", "move up"),
        ("wordle", "s h i r e", "s h i r e"),
        ("sqlgym", "So:\n```sql\nSELECT 1\n```\ndone", "SELECT 1"),
        ("webarena", "In summary, ```click [1]```", "In summary, ```click [1]```"),
        ("searchqa", "<search>x</search>", "<search>x</search>"),
        ("todo", 'Action: f with Action Input: {"a": 1}', 'Action: f with Action Input: {"a": 1}'),
    ],
)
def test_an_action_is_parsed_as_by_agentgyms_own_client(kind: str, answer: str, action: str) -> None:
    assert KINDS[kind].read(answer) == action


def test_a_webarena_answer_without_an_action_gets_its_clients_message() -> None:
    with pytest.raises(NoAction, match="triple backticks"):
        KINDS["webarena"].read("click [1]")


@pytest.mark.parametrize("kind", KINDS)
def test_every_variant_of_agentgym_can_be_played_to_its_reward(kind: str) -> None:
    with guessing(kind) as server:
        env, first = begun(f"agentgym:{kind}@{server.url}", f"{kind}/7")
        assert "task 7" in first
        seen = [env.step(server.say(guess)) for guess in ("1", "2")]
        env.close()
    assert [s.terminated for s in seen] == [False, True]
    assert seen[-1].success is True
    assert sum(s.reward for s in seen) == pytest.approx(server.worth)
    assert seen[-1].info == {"score": server.score}
    assert all(s.valid for s in seen)
    assert server.closed == KINDS[kind].closes
    assert server.unknown_fields == []


def test_a_negative_sciworld_score_earns_0_and_stays_in_info() -> None:
    with guessing("sciworld") as server:
        env, _ = begun(f"agentgym:sciworld@{server.url}", "sciworld/7")
        half = env.step("Action: half")
        lost = env.step("Action: lose")
        env.close()
    assert (half.reward, half.info) == (0.5, {"score": 50})
    assert (lost.reward, lost.terminated, lost.success, lost.info) == (-0.5, True, False, {"score": -100})


@pytest.mark.parametrize(
    "answer",
    [
        "not json",
        "[]",
        "3",
        '{"done": true}',
        '{"observation": "x", "done": true}',
        '{"observation": "x", "reward": NaN, "done": true}',
        '{"error": "broken"}',
        '{"observation": "x", "reward": "1", "done": true}',
        "[" * 100_000,
    ],
)
def test_a_malformed_response_is_a_failure_without_a_reward(answer: str) -> None:
    with guessing("textcraft") as server:
        env, _ = begun(f"agentgym:textcraft@{server.url}", "textcraft/7")
        server.step_answer = answer
        with pytest.raises(EnvironmentFailure):
            env.step("Action: 1")
        env.close()


def test_a_too_large_response_or_a_redirect_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("env_adapters.remote.connection.ANSWER_BYTES", 1000)
    with guessing("textcraft") as server:
        env, _ = begun(f"agentgym:textcraft@{server.url}", "textcraft/7")
        server.step_answer = '{"observation": "' + "x" * 2000 + '"}'
        with pytest.raises(EnvironmentFailure, match="more than 1000 bytes"):
            env.step("Action: 1")
        server.step_answer, server.status = None, 307
        with pytest.raises(EnvironmentFailure, match="307"):
            env.step("Action: 1")
        env.close()


def test_a_random_player_uses_the_listed_actions_of_alfworld_and_babyai_only() -> None:
    import random

    for kind in ("alfworld", "babyai", "maze"):
        with guessing(kind) as server:
            env, _ = begun(f"agentgym:{kind}@{server.url}", f"{kind}/7")
            if kind == "maze":
                with pytest.raises(NotImplementedError):
                    env.random(random.Random(0))
            else:
                assert env.random(random.Random(0)) in ("Action: 1", "Action: 2")
            with pytest.raises(NotImplementedError):
                env.oracle()
            env.close()
