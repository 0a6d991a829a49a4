"""Unmodified environment servers and clients of other projects work with this project's clients and servers."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from env_adapters import REGISTRY, environment_spec
from env_adapters.protocol import Transition
from tests.support.live import Live

TASK = "1/acacia_planks"
SOLUTION = ("get 1 acacia logs", "craft 4 acacia planks using 1 acacia logs")
HERE = Path(__file__).parent
START_S = 180

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]


def run(command: list[Any], environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """Run a client to completion and return the JSON of its last line."""
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def running(command: list[Any], port: int, environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Run a server for the duration of the block; yields its URL once it listens."""
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S
        while not listens(port):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def the_episode(live: Live, protocol: str) -> Any:
    """Return the only episode, which a guest has finished."""
    import sqlalchemy as sa

    from server.store.tables import EpisodeRow

    with live.parts.database.read() as session:
        episode_id = session.scalars(sa.select(EpisodeRow.id)).one()
    episode = live.client.episode(episode_id)
    assert (episode.status, episode.task, episode.reward) == ("terminated", TASK, 1.0)
    assert [step.action for step in episode.steps] == [*SOLUTION]
    assert episode.metadata["protocol"] == protocol
    return episode


def test_openenvs_own_client_plays_an_environment_of_the_server(
    live: Live, openenv_python: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    said = run(
        [openenv_python, HERE / "openenv_player.py", f"{live.url}/openenv/textcraft", TASK, *SOLUTION],
        environment,
        tmp_path,
    )
    assert said["seen"][0]["text"].endswith("Goal: craft acacia planks.")
    assert said["seen"][1:] == [
        {"text": "Got 1 acacia logs", "reward": 0.0, "done": False},
        {"text": "Crafted 4 acacia planks", "reward": 1.0, "done": True},
    ]
    assert said["state"] == {"episode_id": the_episode(live, "openenv").id, "step_count": 2, "task": TASK}
    assert "EXECUTION_ERROR" in said["refused"]


def test_fastmcps_own_client_plays_an_environment_of_the_server(
    live: Live, fastmcp_python: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    said = run(
        [fastmcp_python, HERE / "fastmcp_player.py", f"{live.url}/mcp/textcraft", "any", TASK, *SOLUTION],
        environment,
        tmp_path,
    )
    assert said["tools"] == ["reset", "act", "get", "craft", "inventory"]
    assert [one["done"] for one in said["seen"]] == [False, False, True]
    assert (said["seen"][2]["observation"], said["seen"][2]["reward"]) == ("Crafted 4 acacia planks", 1.0)
    assert "has ended" in said["refused"]
    the_episode(live, "mcp")


def test_the_openenv_adapter_plays_the_environment_that_openenv_init_makes(
    openenv_python: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    subprocess.run(
        [openenv_python, "-m", "openenv.cli", "init", "echo_env"],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=240,
    )
    port = free_port()
    serve = [openenv_python, "-m", "uvicorn", "server.app:app", "--host", "127.0.0.1", "--port", str(port)]
    with running(serve, port, environment, tmp_path / "echo_env") as url:
        REGISTRY.add_remote("openenv-echo", f"openenv@{url}")
        env = environment_spec("openenv-echo").make()
        reset = env.reset("seed-3", 0)
        assert reset.messages[0]["content"].endswith("only this: message (string, Message to echo back)")
        assert json.loads(reset.messages[1]["content"])["echoed_message"].endswith("environment ready!")
        one = env.step("Thought: so\nAction: hello there")
        assert json.loads(one.observation) == {"echoed_message": "hello there", "message_length": 11}
        assert (one.reward, one.terminated, one.valid) == (1.0, False, True)
        env.reset("seed-4", 0)
        assert env.step("a").reward == pytest.approx(0.1)
        env.close()
        other = environment_spec("openenv-echo").make()  # The server's capacity is one session: the last one has ended.
        assert other.reset("seed-3", 0).messages
        other.close()


def test_the_mcp_adapter_plays_a_tool_server_made_with_fastmcp(
    fastmcp_python: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    with running([fastmcp_python, HERE / "fastmcp_server.py", str(port)], port, environment, tmp_path) as url:
        REGISTRY.add_remote("fastmcp-guess", f"mcp@{url}/mcp#end=give_up")
        one, two = (environment_spec("fastmcp-guess").make() for _ in range(2))
        assert [tool["function"]["name"] for tool in environment_spec("fastmcp-guess").tools] == [
            "guess",
            "give_up",
            "look",
        ]
        begun = one.reset("seed-17", 0)
        two.reset("seed-18", 1)
        assert begun.messages[0]["content"].startswith("Guess my number, 0 to 9.")
        assert begun.messages[1]["content"] == "I have a number."
        number = random.Random(17).randrange(10)
        assert one.step("look") == Transition("Nothing to see.", 0.0, False)
        wrong = one.step(f'guess {{"number": {number + 1}}}')
        assert (wrong.observation, wrong.reward, wrong.terminated) == ("It is below.", 0.0, False)
        for bad in ('guess {"number": "many"}', "guess", 'dance {"number": 1}'):
            refused = one.step(bad)
            assert (refused.valid, refused.reward, refused.terminated) == (False, 0.0, False), bad
        right = one.step(f'Action: guess({{"number": {number}}})')
        assert right == Transition("Right.", 1.0, True, success=True)
        given_up = two.step("give_up")
        assert (given_up.reward, given_up.terminated, given_up.success) == (0.25, True, True)
        for env in (one, two):
            env.close()
