"""Unmodified agent libraries chat, stream and call tools, and every turn is recorded."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.database import recorded
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import TurnView

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TOLD = "It rains in Paris."

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("library", ["langchain", "litellm", "openai_agents"])
def test_agents_of_other_libraries_need_only_a_base_url(
    live: Live, agents_python: Path, environment: dict[str, str], tmp_path: Path, library: str
) -> None:
    settings = settings_for(tmp_path / "tools", model=str(script(tmp_path / "tool-script", f"I look.\n{CALL}", TOLD)))
    with serving(settings) as tools:
        command = [agents_python, Path(__file__).with_name(f"{library}_agent.py"), f"{live.url}/v1", f"{tools.url}/v1"]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said = json.loads(done.stdout.splitlines()[-1])
        assert said == {"heard": ["Hello there.", "Second answer."], "called": [{"city": "Paris"}], "told": TOLD}
        for server, answers in ((live, said["heard"]), (tools, ["I look.", TOLD])):
            one, two = turns_of_the_one_episode(server)
            assert [one.answer["content"], two.answer["content"]] == answers
            assert two.token_ids[: len(one.token_ids)] == one.token_ids, "the second turn does not continue the first"
        assert two.messages[0]["role"] == "tool" and two.messages[0]["content"] == "rain in Paris"


def turns_of_the_one_episode(server: Live) -> list[TurnView]:
    """All turns of a server, which must belong to one episode although the agent named none."""
    (episode_id,) = {turn["episode_id"] for turn in recorded(server.parts.settings.data_dir)}
    return server.client.episode(episode_id).turns
