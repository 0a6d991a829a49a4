"""Every example runs: the programs against a live server, the TOML files as settings."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engines.settings import EngineSettings
from server.environments.settings import EnvironmentSettings
from server.rewards.settings import RewardSettings
from server.settings import Settings
from tests.support.live import Live, script, serving, settings_for, until
from upturn.command.runs import read_config
from upturn.wire import EpisodeOpen, PlayRequest

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    """A server whose engine calls the agent's tool, then answers."""
    answers = script(tmp_path / "script", f"Let me look.\n{CALL}", "Take an umbrella.")
    settings = settings_for(
        tmp_path / "data",
        model=str(answers),
        engine=EngineSettings(kind="scripted", context_tokens=4096),
        environments=EnvironmentSettings(modules=["examples.guess"], workers=0),
    )
    with serving(settings) as live:
        yield live


def start(name: str, server: Live) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("UPTURN_")}
    return subprocess.Popen(
        [sys.executable, f"examples/{name}"],
        cwd=ROOT,
        env={**environment, "UPTURN_SERVER": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_agent_calls_its_tool_and_its_conversation_is_one_rewarded_episode(server: Live) -> None:
    with start("agent.py", server) as agent:
        said, _ = agent.communicate(timeout=120)
    assert (agent.returncode, said) == (0, "policy@0: Take an umbrella.\n")
    episodes = server.http.get("/v1/reward-sources").json()["data"]
    assert [(source["name"], source["count"]) for source in episodes if source["count"]] == [("example", 1)]


def test_the_environment_is_played_by_its_solver(server: Live) -> None:
    tasks = server.client.tasks("guess_number", "train").tasks
    request = PlayRequest(environment="guess_number", tasks=tasks, horizon=3, agent="oracle", trainable=False)
    play = server.client.wait_for_play(server.client.start_play(request).id)
    assert (play.state, play.success_rate) == ("done", 1.0)
    opened = server.client.open_episode(EpisodeOpen(environment="guess_number", task="below-50", horizon=3))
    assert server.client.step(opened.id, "no idea").valid is False


def test_the_reward_function_scores_a_live_episode(tmp_path: Path) -> None:
    functions = tomllib.loads((EXAMPLES / "feedback.toml").read_text())["rewards"]["functions"]
    rewards = RewardSettings.model_validate({"functions": functions})
    model = str(script(tmp_path / "script", "Short.", "x" * 800))
    with serving(settings_for(tmp_path / "data", model=model, rewards=rewards)) as live:
        opened = live.client.open_episode(EpisodeOpen())
        agent = live.openai(opened.key)
        messages = [{"role": "user", "content": "Hi"}]
        for _ in range(2):
            answer = agent.chat.completions.create(model="policy", messages=messages, max_tokens=1000)
            messages += [answer.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "More"}]
        live.client.close_episode(opened.id)
        until(lambda: live.client.episode(opened.id).rewards, "the episode is scored")
        scored = {reward.turn: reward.value for reward in live.client.episode(opened.id).rewards}
        assert scored == {0: 1.0, 1: 0.5}


def test_the_training_program_requests_a_run_and_follows_it_to_its_end(server: Live) -> None:
    with start("train.py", server) as program:
        until(lambda: server.client.runs().data, "the run is requested", 120)
        (run,) = server.client.runs().data
        server.client.cancel_run(run.id)
        said, _ = program.communicate(timeout=120)
    assert program.returncode == 0, said
    assert said == f"SFT: run {run.id}\nSFT: cancelled, head @0\n"


@pytest.mark.parametrize("name", ["nights", "lan", "adapters", "feedback"])
def test_the_example_toml_files_are_valid_settings(name: str) -> None:
    file = EXAMPLES / f"{name}.toml"
    loaded = Settings.load(["--config", str(file)])
    assert loaded.model_dump() != Settings.load([]).model_dump()


def test_the_example_run_file_is_a_valid_run_config() -> None:
    assert read_config(EXAMPLES / "run.toml").steps == 20


def test_every_example_is_short_and_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    for file in EXAMPLES.iterdir():
        if file.suffix in (".py", ".toml"):
            assert f"`{file.name}`" in readme
            assert len(file.read_text().splitlines()) < 60, file.name
