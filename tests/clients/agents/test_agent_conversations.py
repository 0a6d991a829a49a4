"""inspect-ai and promptfoo, unchanged: conversations with tools and without, and their scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.programs.agents import MISSING, PRICES, Sandbox, heard, policy, the_episode
from tests.support.programs.interpreters import interpreter, node_modules

HERE = Path(__file__).parent

pytestmark = [pytest.mark.agents, pytest.mark.timeout(1200)]


def test_inspect_ai_calls_tools_and_recovers_from_an_error(home: Sandbox, tmp_path: Path) -> None:
    inspect = interpreter("inspect", HERE / "requirements" / "inspect.txt").with_name("inspect")
    shutil.copy(HERE / "programs" / "inspect_prices.py", home.work)
    with policy(tmp_path, *PRICES) as live:
        home.run(
            *(inspect, "eval", "inspect_prices.py", "--model", "openai-api/upturn/policy"),
            *("--display", "none", "--log-dir", home.work / "logs", "--log-format", "json"),
            UPTURN_BASE_URL=f"{live.url}/v1",
            UPTURN_API_KEY="sk-inspect",
        )
        (log,) = (home.work / "logs").glob("*.json")
        (score,) = json.loads(log.read_text())["results"]["scores"]
        assert score["metrics"]["accuracy"]["value"] == 1
        turns = the_episode(live, PRICES)
        assert MISSING in heard(turns)


@pytest.mark.parametrize("temperature", [None, 1])
def test_promptfoo_tests_a_conversation(home: Sandbox, tmp_path: Path, temperature: float | None) -> None:
    promptfoo = node_modules("promptfoo", HERE / "npm" / "promptfoo" / "package.json") / ".bin" / "promptfoo"
    answers = ("A lamp costs 21.", "Sorry, a lamp costs 12.", "A table costs 30.", "Together they cost 42.")
    questions = ("What does a lamp cost?", "Are you sure?", "And a table?", "And both?")
    asked = '{"role": "user", "content": {{ turn.input | dump }}}'
    answered = '{"role": "assistant", "content": {{ turn.output | dump }}}'
    before = f"{{% for turn in _conversation %}}{asked}, {answered}, {{% endfor %}}"
    with policy(tmp_path, *answers) as live:
        config = {"apiBaseUrl": f"{live.url}/v1", "apiKey": "sk-promptfoo"}
        config |= {} if temperature is None else {"temperature": temperature}
        (home.work / "promptfooconfig.json").write_text(
            json.dumps(
                {
                    "prompts": [f'[{before}{{"role": "user", "content": {{{{ question | dump }}}}}}]'],
                    "providers": [{"id": "openai:chat:policy", "config": config}],
                    "tests": [
                        {"vars": {"question": question}, "assert": [{"type": "equals", "value": answer}]}
                        for question, answer in zip(questions, answers, strict=True)
                    ],
                }
            )
        )
        home.run(
            *(promptfoo, "eval", "-c", "promptfooconfig.json", "--no-cache", "--no-table", "--no-progress-bar"),
            *("-o", "results.json", "-j", "1"),
            PROMPTFOO_DISABLE_TELEMETRY="1",
            PROMPTFOO_DISABLE_UPDATE="1",
            PROMPTFOO_DISABLE_REMOTE_GENERATION="1",
        )
        # It reports that its telemetry is disabled, which nothing prevents.
        assert set(home.asked) <= {"r.promptfoo.app:443"}
        home.asked.clear()
        results = json.loads((home.work / "results.json").read_text())["results"]
        assert results["stats"]["successes"] == len(answers)
        the_episode(live, answers, reason="greedy" if temperature is None else None)
