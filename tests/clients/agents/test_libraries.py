"""Agents on third-party libraries, unchanged: three tool calls, one error recovered, one episode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs.agents import MISSING, PRICES, SHOPPING, TOTAL, Sandbox, Schemas, heard, policy, the_episode
from tests.support.programs.interpreters import interpreter, node_modules

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"

pytestmark = [pytest.mark.agents, pytest.mark.timeout(1200)]


def library(name: str) -> Path:
    """Return the interpreter with a library."""
    return interpreter(name, HERE / "requirements" / f"{name}.txt")


def constrained_call(name: str, **arguments: Any) -> str:
    """Return a call as a policy writes it that must call a tool."""
    return json.dumps({"name": name, "arguments": arguments})


@pytest.mark.clients
def test_pydantic_ai_gets_nested_output_after_a_tools_error_and_its_own(
    home: Sandbox, tmp_path: Path, schemas: Schemas
) -> None:
    lines = [{"item": "lamp", "price": 12}, {"item": "table", "price": 30}]
    answers = (
        constrained_call("price", item="lmap"),
        constrained_call("price", item="lamp"),
        constrained_call("price", item="table"),
        constrained_call("final_result", lines=lines, total=-42),
        constrained_call("final_result", lines=lines, total=42),
    )
    python = library("pydantic_ai")
    with policy(tmp_path, *answers) as live:
        said = home.run(python, PROGRAMS / "pydantic_ai_agent.py", f"{live.url}/v1", SHOPPING)
        assert json.loads(said) == {"lines": lines, "total": 42}
        turns = the_episode(live, answers, reason="constrained_sampling")
        assert MISSING in heard(turns) and "a total cannot be negative" in heard(turns)
    assert (schemas.wrong, len(schemas.used)) == ([], len(answers))


@pytest.mark.clients
def test_instructor_gets_a_nested_model_after_two_retries(home: Sandbox, tmp_path: Path, schemas: Schemas) -> None:
    address = {"street": "Long Street 1", "city": "Paris"}
    order = {"items": ["lamp", "table"], "address": address, "total": 42}
    long, longer = order | {"items": []}, order | {"items": ["lamp"]}
    answers = tuple(constrained_call("Order", **fields) for fields in (long, longer, order))
    python = library("instructor")
    with policy(tmp_path, *answers) as live:
        said = home.run(python, PROGRAMS / "instructor_agent.py", f"{live.url}/v1", "Deliver a lamp and a table.")
        assert json.loads(said) == order
        turns = the_episode(live, answers, reason="constrained_sampling")
        assert "name every item" in heard(turns)
    assert (schemas.wrong, len(schemas.used)) == ([], len(answers))


@pytest.mark.clients
def test_smolagents_writes_code_and_recovers_from_its_exception(home: Sandbox, tmp_path: Path) -> None:
    answers = (
        'Thought: I ask for both.\n<code>\nlamp = price("lmap")\n</code>',
        'Thought: A typo.\n<code>\nlamp = price("lamp")\nprint(lamp)\n</code>',
        'Thought: The table.\n<code>\ntable = price("table")\nprint(table)\n</code>',
        'Thought: The sum.\n<code>\nfinal_answer(f"Together they cost {lamp + table}.")\n</code>',
    )
    python = library("smolagents")
    with policy(tmp_path, *answers) as live:
        said = home.run(python, PROGRAMS / "smolagents_agent.py", f"{live.url}/v1", SHOPPING)
        assert said.splitlines()[-1] == TOTAL
        # It adds its own account of the call to every answer, so each turn begins where the answer was rewritten.
        turns = the_episode(live, answers, forks=(1, 2, 3))
        assert MISSING in heard(turns)


@pytest.mark.parametrize("name", ["autogen", "crewai"])
def test_agents_call_tools_and_recover_from_an_error(home: Sandbox, tmp_path: Path, name: str) -> None:
    python = library(name)
    variables = {
        "autogen": {},
        "crewai": {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false"},
    }
    # AutoGen asks for its reflection without tools. CrewAI sends calls back without the text before them.
    forks = {"autogen": (3,), "crewai": (1, 2)}
    with policy(tmp_path, *PRICES) as live:
        said = home.run(python, PROGRAMS / f"{name}_agent.py", f"{live.url}/v1", SHOPPING, **variables[name])
        assert said.splitlines()[-1] == TOTAL
        turns = the_episode(live, PRICES, forks=forks[name])
        assert MISSING in heard(turns)


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_the_ai_sdk_calls_tools_and_recovers_from_an_error(home: Sandbox, tmp_path: Path, api: str) -> None:
    modules = node_modules("ai_sdk", HERE / "npm" / "ai_sdk" / "package.json")
    with policy(tmp_path, *PRICES) as live:
        said = home.run("node", PROGRAMS / "ai_sdk_agent.mjs", modules, api, f"{live.url}/v1", SHOPPING)
        assert said.splitlines()[-1] == TOTAL
        turns = the_episode(live, PRICES)
        assert MISSING in heard(turns)


def test_the_ai_sdk_works_in_an_episode_of_the_typescript_client(home: Sandbox, tmp_path: Path) -> None:
    modules = node_modules("ai_sdk", HERE / "npm" / "ai_sdk" / "package.json")
    client = HERE.parents[2] / "clients" / "typescript" / "upturn.js"
    with policy(tmp_path, *PRICES) as live:
        said = home.run("node", PROGRAMS / "ai_sdk_episode.mjs", modules, client, live.url, SHOPPING)
        assert said.splitlines()[-1] == TOTAL
        turns = the_episode(live, PRICES)
        assert MISSING in heard(turns)
        (episode,) = live.client.iter_episodes()
        assert (episode.status, episode.reward, episode.metadata) == ("closed", 1.0, {"agent": "ai-sdk"})
