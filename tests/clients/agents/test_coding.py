"""Coding agents, unchanged: they read and write files, run commands, recover from an error, and stay in one episode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.database import recorded
from tests.support.live import Live
from tests.support.programs.agents import TOTAL, Sandbox, call, heard, policy, the_episode
from tests.support.programs.interpreters import interpreter, node_modules

HERE = Path(__file__).parent
TASK = "Add up the prices in prices.txt and write the sum into total.txt."

pytestmark = [pytest.mark.agents, pytest.mark.timeout(1200)]


def program(name: str, command: str) -> Path:
    """Return the path of a program from npm."""
    return node_modules(name, HERE / "npm" / name / "package.json") / ".bin" / command


@pytest.fixture
def shop(home: Sandbox) -> Sandbox:
    """A home whose working directory has prices."""
    (home.work / "prices.txt").write_text("lamp 12\ntable 30\n")
    return home


def total(shop: Sandbox) -> str:
    """Return what the agent wrote."""
    return (shop.work / "total.txt").read_text().strip()


def test_claude_code_reads_writes_and_runs(shop: Sandbox, tmp_path: Path) -> None:
    answers = (
        "I read the prices.\n" + call("Read", file_path=str(shop.work / "price.txt")),
        "A typo. Again.\n" + call("Read", file_path=str(shop.work / "prices.txt")),
        call("Write", file_path=str(shop.work / "total.txt"), content="42\n"),
        call("Bash", command="cat total.txt", description="Show the sum"),
        TOTAL,
    )
    claude = program("claude_code", "claude")
    with policy(tmp_path, *answers) as live:
        said = shop.run(
            *(claude, "-p", TASK, "--output-format", "json", "--allowedTools", "Read,Write,Bash"),
            ANTHROPIC_BASE_URL=live.url,
            ANTHROPIC_AUTH_TOKEN="sk-claude-code",
            ANTHROPIC_MODEL="policy",
            ANTHROPIC_DEFAULT_HAIKU_MODEL="policy",
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            DISABLE_AUTOUPDATER="1",
            DISABLE_TELEMETRY="1",
            DISABLE_ERROR_REPORTING="1",
        )
        assert json.loads(said)["result"] == TOTAL
        assert total(shop) == "42"
        turns = the_episode(live, answers)
        assert "File does not exist" in heard(turns) and "table 30" in heard(turns)


CODEX = """
model = "policy"
model_provider = "upturn"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
analytics.enabled = false
feedback.enabled = false
features.apps = false
features.plugins = false
features.remote_plugin = false

[model_providers.upturn]
name = "Upturn"
base_url = "{url}/v1"
env_key = "UPTURN_KEY"
wire_api = "responses"
"""


def test_codex_runs_commands_with_its_default_tools(shop: Sandbox, tmp_path: Path) -> None:
    answers = (
        "I read the prices.\n" + call("exec_command", cmd="cat price.txt"),
        "A typo. Again.\n" + call("exec_command", cmd="cat prices.txt"),
        call("exec_command", cmd="echo 42 > total.txt"),
        TOTAL,
    )
    codex = program("codex", "codex")
    with policy(tmp_path, *answers) as live:
        (shop.home / ".codex").mkdir()
        (shop.home / ".codex" / "config.toml").write_text(CODEX.format(url=live.url))
        said = shop.run(codex, "exec", "--skip-git-repo-check", "--json", TASK, UPTURN_KEY="sk-codex")
        messages = [
            event["item"]["text"]
            for event in map(json.loads, said.splitlines())
            if event["type"] == "item.completed" and event["item"]["type"] == "agent_message"
        ]
        assert messages[-1] == TOTAL
        assert total(shop) == "42"
        turns = the_episode(live, answers)
        assert "No such file" in heard(turns) and "table 30" in heard(turns)


def test_opencode_reads_writes_and_runs(shop: Sandbox, tmp_path: Path) -> None:
    answers = (
        "I read the prices.\n" + call("read", filePath=str(shop.work / "price.txt")),
        "A typo. Again.\n" + call("read", filePath=str(shop.work / "prices.txt")),
        call("write", filePath=str(shop.work / "total.txt"), content="42\n"),
        call("bash", command="cat total.txt", description="Show the sum"),
        TOTAL,
    )
    opencode = program("opencode", "opencode")
    with policy(tmp_path, *answers) as live:
        config = {
            "model": "upturn/policy",
            "small_model": "upturn/policy",
            "autoupdate": False,
            "share": "disabled",
            "enabled_providers": ["upturn"],
            "provider": {
                "upturn": {
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "Upturn",
                    "options": {"baseURL": f"{live.url}/v1", "apiKey": "sk-opencode"},
                    "models": {"policy": {"name": "policy", "limit": {"context": 200000, "output": 8000}}},
                }
            },
        }
        said = shop.run(
            *(opencode, "run", "--title", "prices", "--format", "json", TASK),
            OPENCODE_CONFIG_CONTENT=json.dumps(config),
            OPENCODE_DISABLE_AUTOUPDATE="1",
            OPENCODE_DISABLE_MODELS_FETCH="1",
            OPENCODE_DISABLE_LSP_DOWNLOAD="1",
            OPENCODE_DISABLE_DEFAULT_PLUGINS="1",
            OPENCODE_DISABLE_SHARE="1",
            npm_config_offline="true",
        )
        texts = [event["part"]["text"] for event in map(json.loads, said.splitlines()) if event["type"] == "text"]
        assert texts[-1] == TOTAL
        assert total(shop) == "42"
        turns = the_episode(live, answers)
        assert "not found" in heard(turns) and "table 30" in heard(turns)


def edit(search: str, replace: str) -> str:
    """Return an edit as aider reads it."""
    return f"prices.py\n```python\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE\n```"


EDITS = (
    "I mend the table's price.\n\n" + edit("TABLE = 13", "TABLE = 30"),
    "Again.\n\n" + edit("TABLE = 3", "TABLE = 30"),
    "The sum is missing.\n\n" + edit("TABLE = 30", "TABLE = 30\nTOTAL = LAMP + TABLE"),
)
NAMED = """
- name: openai/policy
  use_temperature: false
  extra_params:
    extra_headers:
      x-conversation-id: prices-1
"""


@contextmanager
def aider_has_edited(home: Sandbox, directory: Path, *options: str | Path) -> Iterator[Live]:
    """Let aider edit until its test passes, and yield the server."""
    (home.work / "prices.py").write_text("LAMP = 12\nTABLE = 3\n")
    (home.work / "check.py").write_text("from prices import TOTAL\n\nassert TOTAL == 42\n")
    # It asks GitHub for the model's prices unless it has them from earlier.
    cache = home.home / ".aider" / "caches" / "model_prices_and_context_window.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({"openai/policy": {"max_input_tokens": 100_000, "litellm_provider": "openai"}}))
    aider = interpreter("aider", HERE / "requirements" / "aider.txt").with_name("aider")
    # The script counts aider's examples and acknowledgments, which it sends as answers of the assistant.
    with policy(directory, *["Ok."] * 4, EDITS[0], "Ok.", EDITS[1], *["Ok."] * 2, EDITS[2]) as live:
        home.run(
            *(aider, "--model", "openai/policy", "--edit-format", "diff", "--no-git", "--yes-always", "--no-pretty"),
            *("--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--no-show-release-notes"),
            *("--auto-test", "--test-cmd", "python3 check.py", *options),
            *("--message", "The table costs 30. Add the sum as TOTAL.", "prices.py"),
            OPENAI_API_BASE=f"{live.url}/v1",
            OPENAI_API_KEY="sk-aider",
            LITELLM_LOCAL_MODEL_COST_MAP="True",
        )
        assert (home.work / "prices.py").read_text() == "LAMP = 12\nTABLE = 30\nTOTAL = LAMP + TABLE\n"
        yield live


def test_aider_with_an_id_in_its_settings_edits_in_one_episode_until_its_test_passes(
    home: Sandbox, tmp_path: Path
) -> None:
    settings = tmp_path / "settings.yml"
    settings.write_text(NAMED)
    with aider_has_edited(home, tmp_path, "--model-settings-file", settings) as live:
        # It repeats its reminders behind the newest message only, and the files as they are: it rewrites the past.
        turns = the_episode(live, EDITS, forks=(1, 2))
        assert "failed to match" in heard(turns) and "cannot import name 'TOTAL'" in heard(turns)


def test_each_answer_to_aider_is_an_episode_without_an_id_since_it_rewrites_what_it_said(
    home: Sandbox, tmp_path: Path
) -> None:
    with aider_has_edited(home, tmp_path) as live:
        rows = recorded(live.parts.settings.data_dir)
        assert len({row["episode_id"] for row in rows}) == len(rows) == len(EDITS)
        assert {row["untrainable_reason"] for row in rows} == {"greedy"}
