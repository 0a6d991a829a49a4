"""Remote environments: their registration, and the clients of AgentGym, OpenEnv and MCP over real sockets.

The other side is this project's own server; tests/clients uses servers of other projects. AgentGym's other variants
have no package, so `elsewhere.py` imitates them.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from env_adapters import REGISTRY, environment_spec
from env_adapters.protocol import Environment, EnvironmentFailure, Transition, UnknownTask
from env_adapters.remote.agentgym import KINDS, NoAction
from env_adapters.remote.connection import place
from env_adapters.remote.mcp import read_call
from env_adapters.remote.openenv import Form
from tests.support.environments.elsewhere import guessing
from tests.support.live import Live, serving, settings_for
from upturn.wire import EpisodeOpen

ROOT = Path(__file__).parents[2]
SOLUTION = ("get 1 acacia logs", "craft 4 acacia planks using 1 acacia logs")
TRAIN = environment_spec("textcraft").tasks("train")
_numbers = itertools.count()


def named(spec: str) -> str:
    """Register an address under a new name."""
    name = f"elsewhere-{next(_numbers)}"
    REGISTRY.add_remote(name, spec)
    return name


def begun(spec: str, task: str, seed: int = 0) -> tuple[Environment, str]:
    env = environment_spec(named(spec)).make()
    try:
        return env, env.reset(task, seed).messages[-1]["content"]
    except EnvironmentFailure:
        env.close()
        raise


# ----------------------------------------------------------------------------------------------------- registration


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "agentgym:KIND@URL, openenv@URL"),
        ("ftp@http://host", "not 'ftp'"),
        ("http://host:8000", "not 'http'"),
        ("openenv@", "not a URL"),
        ("openenv@host:8000", "not a URL"),
        ("openenv@file:///etc/passwd", "not a URL"),
        ("mcp@http://", "not a URL"),
        ("mcp@http://host/mcp?x=1", "not a URL"),
        ("mcp@http://host:99999/", "Port"),
        ("mcp@http://host/mcp#finish", "#end=TOOL"),
        ("mcp@http://host/mcp#end=", "#end=TOOL"),
        ("agentgym@http://host", "no kind"),
        ("agentgym:chess@http://host", "no kind 'chess'"),
        ("agentgym:textcraft@host", "not a URL"),
        ("openenv:x@http://host", "not a URL"),
    ],
)
def test_a_malformed_address_is_refused_with_the_allowed_forms(spec: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        REGISTRY.add_remote("elsewhere", spec)
    assert "elsewhere" not in REGISTRY.names()


def test_a_name_is_given_once_and_never_shadows_another_environment() -> None:
    name = named("openenv@http://127.0.0.1:1")
    REGISTRY.add_remote(name, "openenv@http://127.0.0.1:1")
    assert name in REGISTRY.names()
    for taken, spec in (
        (name, "openenv@http://127.0.0.1:2"),
        (name, "mcp@http://127.0.0.1:1"),
        ("textcraft", "openenv@http://127.0.0.1:1"),
    ):
        with pytest.raises(ValueError, match="already"):
            REGISTRY.add_remote(taken, spec)
    for bad in ("", "A", "a b", "gymnasium:x", "../x", "x" * 65):
        with pytest.raises(ValueError, match="not a name"):
            REGISTRY.add_remote(bad, "openenv@http://127.0.0.1:1")


def test_only_the_registry_decides_which_servers_are_contacted() -> None:
    for name in ("openenv@http://127.0.0.1:1", "openenv:http://127.0.0.1:1", "mcp:x", "agentgym:textcraft"):
        with pytest.raises(UnknownTask):
            environment_spec(name)


def test_a_key_in_a_url_is_sent_as_a_bearer_token_and_never_displayed() -> None:
    where = place("https://sk%2Dsecret@example.org:8443/env/")
    assert (where.url, where.headers) == ("https://example.org:8443/env", {"authorization": "Bearer sk-secret"})
    found = environment_spec(named("openenv@https://sk-secret@example.org/env"))
    assert "example.org" in found.description and "secret" not in found.description


def test_listing_sends_no_request_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from env_adapters import REGISTRY, environment_spec\n"
        "for name, spec in (('a', 'agentgym:babyai@http://h'), ('b', 'openenv@http://h'), ('c', 'mcp@http://h')):\n"
        "    REGISTRY.add_remote(name, spec); environment_spec(name).tasks('train'); environment_spec(name).tools\n"
        "print(sorted({'httpx2', 'websockets', 'numpy', 'gymnasium'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("spec", [*(f"agentgym:{kind}@http://h" for kind in KINDS), "openenv@http://h", "mcp@http://h"])
def test_splits_are_disjoint_bounded_and_the_same_everywhere(spec: str) -> None:
    found = environment_spec(named(spec))
    train, test = found.tasks("train"), found.tasks("test")
    assert train and test and not set(train) & set(test)
    assert len(train) + len(test) <= 5000
    if len(train) + len(test) > 300:
        assert 0.15 < len(test) / (len(train) + len(test)) < 0.25
    with pytest.raises(UnknownTask, match="train and test"):
        found.tasks("validation")


@pytest.mark.parametrize(
    ("spec", "task"),
    [("agentgym:textcraft@http://127.0.0.1:9", "textcraft/0"), ("openenv@http://127.0.0.1:9", "seed-0")],
)
def test_an_unreachable_server_is_a_failure_of_the_environment(spec: str, task: str) -> None:
    env = environment_spec(named(spec)).make()
    with pytest.raises(EnvironmentFailure, match="ConnectError"):
        env.reset(task, 0)
    env.close()
    env.close()


def test_an_unreachable_mcp_server_fails_when_an_instance_is_made() -> None:
    found = environment_spec(named("mcp@http://127.0.0.1:9/mcp"))
    assert found.tools == []
    with pytest.raises(EnvironmentFailure, match="ConnectError"):
        found.make()


# --------------------------------------------------------------------------------------------------------- AgentGym


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


# ---------------------------------------------------------------------------------------------------------- OpenEnv


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


# -------------------------------------------------------------------------------------------------------------- MCP


def test_a_tool_server_is_an_environment(live: Live) -> None:
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
