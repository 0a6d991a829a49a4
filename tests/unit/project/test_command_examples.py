"""The help of `upturn`: examples that parse, `--json` of all that print data; and progress on a terminal."""

from __future__ import annotations

import io
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from tests.support.live import Live, script, serving, settings_for
from tests.support.runs.scripted import claim, publication
from upturn.command import app
from upturn.command.progress import ProgressLine, RichLine, progress_line
from upturn.command.run import run
from upturn.wire import EpisodeOpen, RunConfig, RunRequest

ROOT = Path(__file__).parents[3]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["upturn.commands"]
PRINTS_NO_DATA = {
    "serve", "demo", "migrate", "export", "import", "backup", "restore", "settings", "keys revoke",
}  # fmt: skip
"""Commands that print what they do, and no data; the demo's figures are JSON in any case."""


@pytest.fixture(autouse=True)
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `upturn` have the commands of all distributions."""
    found = EntryPoints(EntryPoint(name, value, "upturn.commands") for name, value in DECLARED.items())
    monkeypatch.setattr(app, "entry_points", lambda *, group: found)


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A server, which commands find by the environment."""
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Hello.")))
    with serving(settings) as server:
        monkeypatch.setenv("UPTURN_SERVER", server.url)
        yield server


def call(*arguments: str) -> int:
    return run(app.build(), list(arguments), "upturn")


def commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Yield every command with its name, groups left out."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield " ".join(path), command
        return
    for name, one in inner.items():
        yield from commands(one, *path, name)


def test_every_command_has_an_example_and_json_wherever_it_prints_data() -> None:
    found = dict(commands(typer.main.get_command(app.build())))
    assert {"train", "policies export", "keys create", "demo", "backup", "episodes reward"} <= found.keys()
    for name, command in found.items():
        assert f"`upturn {name}" in (command.epilog or ""), f"{name} has no example"
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options or name in PRINTS_NO_DATA, f"{name} has no --json"


def test_every_example_parses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text("steps = 1\n")
    root: Any = typer.main.get_command(app.build())
    lines = [
        line for _, command in commands(root) for line in re.findall(r"^- `(upturn .*)`$", command.epilog or "", re.M)
    ]
    assert len(lines) > 40
    for line in lines:
        command, words = root, shlex.split(line)[1:]
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        with suppress(typer.Exit):  # `--help-topic` prints and exits.
            command.make_context(command.name, words)


def test_the_help_shows_the_examples_one_on_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("play", "--help") == 0
    said = capsys.readouterr().out
    shown = [line for line in said.splitlines() if "upturn play textcraft" in line]
    assert len(shown) == 2


def test_an_episode_is_rewarded_once_by_name_and_closed(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    answer = live.openai(opened.key).chat.completions.create(
        model="policy", messages=[{"role": "user", "content": "Hi"}]
    )
    for _ in range(2):
        assert call("episodes", "reward", answer.id, "--once", "first", "--", "-0.5") == 0
    assert call("episodes", "reward", opened.id, "1", "--turn", "0", "--json") == 0
    assert json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))["turn"] == 0
    assert call("episodes", "close", opened.id, "--reason", "done") == 0
    assert f"{opened.id}: closed, 1 turns, reward 0.5" in capsys.readouterr().out


def test_a_run_is_paused_and_resumed_and_a_followed_one_ends(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = live.client.create_run(RunRequest(config=RunConfig(steps=7))).id
    assert call("run", "pause", run_id) == 0
    assert f"run {run_id} paused" in capsys.readouterr().out
    assert call("run", "resume", run_id, "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "queued"
    live.client.cancel_run(run_id)


def test_versions_are_promoted_pinned_and_rolled_back(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    live.client.publish(publication(live, claim(live), "better"))
    assert call("policies", "pin", "1") == 0
    assert "policy@1: champion, head, pinned, loaded" in capsys.readouterr().out
    assert call("policies", "unpin", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["pinned"] is False
    assert call("policies", "promote", "0", "--reason", "tested") == 0
    assert "policy@0: champion" in capsys.readouterr().out
    assert live.client.promotions().data[0].reason == "tested"
    assert call("policies", "promote", "7") == 1
    assert "7" in capsys.readouterr().err


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def test_progress_uses_rich_on_a_terminal_and_plain_lines_elsewhere() -> None:
    assert type(progress_line(io.StringIO())) is ProgressLine
    terminal = Terminal()
    line = progress_line(terminal)
    assert isinstance(line, RichLine)
    line.show("[bold] 1/2 episodes")
    line.say("step 1 [done]")
    line.end()
    assert "step 1 [done]" in terminal.getvalue()
