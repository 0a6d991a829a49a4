"""The clients of OpenEnv and MCP servers over real sockets.

The other side is this project's own server; tests/clients uses servers of other projects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from env_adapters import environment_spec
from env_adapters.protocol import EnvironmentFailure, Transition, UnknownTask
from env_adapters.remote.mcp import read_call
from env_adapters.remote.openenv import Form
from tests.support.environments.addresses import TRAIN, begun, named
from tests.support.live import Live, serving, settings_for
from upturn.wire import EpisodeOpen


def test_an_openenv_server_can_be_played(live: Live) -> None:
    number = TRAIN.index("1/acacia_planks") if "1/acacia_planks" in TRAIN else TRAIN.index("1/birch_planks")
    goal = TRAIN[number].partition("/")[2].replace("_", " ")
    env, first = begun(f"openenv@{live.url}/openenv/textcraft", f"seed-{number}")
    assert first.endswith(f"Goal: craft {goal}.")
    log = goal.replace("planks", "logs")
    assert env.step("dance").observation == "Not an action. Use get, craft or inventory."
    assert env.step(f"Action: get 1 {log}") == Transition(f"Got 1 {log}", 0.0, False)
    assert env.step(f"craft 4 {goal} using 1 {log}") == Transition(f"Crafted 4 {goal}", 1.0, True, success=True)
    with pytest.raises(ValueError, match="over"):
        env.step("inventory")
    assert env.reset("seed-0", 0).messages[0]["content"].endswith("message (string, The player's whole answer.)")
    env.close()
    env.close()


def test_an_action_refused_by_an_openenv_server_is_shown_and_other_errors_are_failures(live: Live) -> None:
    env, _ = begun(f"openenv@{live.url}/openenv/textcraft", "seed-0")
    refused = env.step("x" * 1_000_001)
    assert (refused.valid, refused.reward, refused.terminated) == (False, 0.0, False)
    assert refused.observation.startswith("Not an action: String should have at most 1000000 characters")
    with pytest.raises(UnknownTask, match="seed-0"):
        env.reset("seed-1000", 0)
    env.close()
    with pytest.raises(EnvironmentFailure, match="404"):
        begun(f"openenv@{live.url}/openenv/nothing", "seed-0")


@pytest.mark.parametrize(
    ("properties", "required", "text", "action"),
    [
        ({"message": "string"}, ["message"], "Action: hello\nthere", {"message": "hello\nthere"}),
        ({"message": "string", "metadata": "object"}, ["message"], '"hi"', {"message": "hi"}),
        ({"code": "string", "timeout": "number"}, ["code"], "print(1)", {"code": "print(1)"}),
        ({"action_id": "integer"}, ["action_id"], "Action: 3", {"action_id": 3}),
        ({"action_id": "integer"}, ["action_id"], '{"action_id": 3}', {"action_id": 3}),
        ({"x": "number", "y": "number"}, ["x", "y"], 'I move. Action: {"x": 1, "y": 2}!', {"x": 1, "y": 2}),
    ],
)
def test_text_becomes_the_fields_of_an_openenv_action(
    properties: dict[str, str], required: list[str], text: str, action: dict[str, Any]
) -> None:
    form = Form({"properties": {name: {"type": kind} for name, kind in properties.items()}, "required": required})
    assert form.action(text) == action


@pytest.mark.parametrize("text", ["", "left", "{", "}{", "[1]", "{" * 100_000])
def test_text_without_the_fields_of_an_openenv_action_is_refused(text: str) -> None:
    form = Form({"properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x", "y"]})
    with pytest.raises(ValueError, match="JSON"):
        form.action(text)
    assert form.rule == 'a JSON object with these fields: {"x": "number", "y": "number"}'


def test_a_tool_server_can_be_played_as_an_environment(live: Live) -> None:
    name = named(f"mcp@{live.url}/mcp/textcraft")
    env = environment_spec(name).make()
    assert [tool["function"]["name"] for tool in environment_spec(name).tools] == ["act", "get", "craft", "inventory"]
    number = TRAIN.index("1/acacia_planks") if "1/acacia_planks" in TRAIN else TRAIN.index("1/birch_planks")
    goal = TRAIN[number].partition("/")[2].replace("_", " ")
    reset = env.reset(f"seed-{number}", 0)
    assert 'tool_name {"argument": value}' in reset.messages[0]["content"]
    assert reset.messages[1]["content"].endswith(f"Goal: craft {goal}.")
    log = goal.replace("planks", "logs")
    text = environment_spec(name).text_of("get", {"item": log, "count": 1})
    assert env.step(text) == Transition(f"Got 1 {log}", 0.0, False)
    for wrong in ("", "dance {}", "get {", 'act {"action": 7}', 'reset {"seed": 1}', "$"):
        refused = env.step(wrong)
        assert (refused.valid, refused.reward, refused.terminated) == (False, 0.0, False), (wrong, refused)
    done = env.step(f'Action: act({{"action": "craft 4 {goal} using 1 {log}"}})')
    assert (done.observation, done.reward, done.terminated, done.success) == (f"Crafted 4 {goal}", 1.0, True, True)
    with pytest.raises(ValueError, match="over"):
        env.step("inventory")
    env.close()
    env.close()


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("inventory", ("inventory", {})),
        ('Action: get {"item": "a", "count": 2}', ("get", {"item": "a", "count": 2})),
        ('`get({"item": "a"})`', ("get", {"item": "a"})),
        ('Thought: so\nAction: a.b-c\n{"x": {"y": [1]}}', ("a.b-c", {"x": {"y": [1]}})),
    ],
)
def test_a_call_is_parsed_from_an_answer(text: str, call: tuple[str, dict[str, Any]]) -> None:
    assert read_call(text) == call


def test_a_server_plays_and_records_an_environment_of_another_server(live: Live, tmp_path: Path) -> None:
    from server.environments.settings import EnvironmentSettings
    from tests.support.live import script

    remote = {
        f"far-{kind}": f"{spec}@{live.url}/{path}/textcraft"
        for kind, spec, path in (
            ("agentgym", "agentgym:textcraft", "agentgym"),
            ("openenv", "openenv", "openenv"),
            ("mcp", "mcp", "mcp"),
        )
    }
    settings = settings_for(
        tmp_path / "near", model=str(script(tmp_path / "s", "Hi.")), environments=EnvironmentSettings(remote=remote)
    )
    with serving(settings) as near:
        for name in remote:
            opened = near.client.open_episode(
                EpisodeOpen(environment=name, task=environment_spec(name).tasks("train")[0])
            )
            answer = "inventory {}" if name == "far-mcp" else "Action: inventory"
            step = near.client.step(opened.id, answer)
            assert step.observation == "Inventory: You are not carrying anything."
            assert near.client.close_episode(opened.id).status == "closed"
