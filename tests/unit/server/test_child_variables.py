"""Every child process gets the variables on its list: no secret of the server reaches one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from env_adapters.browser import browser
from env_adapters.child_variables import child_variables
from server.engines import gpus
from server.engines.options import VllmOptions
from server.engines.vllm import command as vllm_command
from server.engines.vllm import process as vllm_process
from server.engines.vllm.process import VllmProcess
from server.environments.host_process import HostProcess
from server.environments.settings import EnvironmentSettings
from server.errors import EngineError
from server.training import learner_process
from server.training.learner_process import LearnerProcess
from server.training.settings import LearnerSettings

SECRETS = {
    "UPTURN_DATABASE_URL": "postgresql://upturn:hunter2@db/upturn",
    "PGPASSWORD": "hunter2",
    "OPENAI_API_KEY": "sk-judge",
    "AWS_SECRET_ACCESS_KEY": "aws",
    "HF_TOKEN": "hf-token",
    "VLLM_API_KEY": "vllm-key",
    "GITHUB_TOKEN": "gh",
    "https_proxy": "http://user:password@proxy",
    "UPTURN_KEY": "up-of-the-operator",
    "ANYTHING_ELSE": "something",
}
HARMLESS = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "OMP_NUM_THREADS": "1", "GAME_LEVEL": "3", "GAME_KEY": "game-key"}


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SECRETS, **HARMLESS}.items():
        monkeypatch.setenv(name, value)


def variables_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(line.decode().split("=", 1) for line in lines if b"=" in line)


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, listed) for found in (child, *children_of(child))]


def dumping(directory: Path) -> tuple[Path, Path]:
    """Return a program that writes its variables to a file and fails, and that file."""
    out, program = directory / "variables", directory / "program"
    # Written by a child: a program that this process holds open, or one of its forks, could not be started.
    write = ["sh", "-c", 'cat > "$0" && chmod 755 "$0"', str(program)]
    subprocess.run(write, input=f"#!/bin/sh\nenv > '{out}'\nexit 3\n", text=True, check=True)
    return program, out


def dumped(out: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in out.read_text().splitlines() if "=" in line)


def check(found: dict[str, str], *but: str) -> None:
    assert not {name for name in found if name in SECRETS} - set(but)
    assert not {value for value in found.values() if value in SECRETS.values()}
    assert found["PATH"] and found["LC_ALL"] == "C.UTF-8"


def test_only_listed_names_pass_and_a_pattern_names_no_secret() -> None:
    assert "ANYTHING_ELSE" not in child_variables()
    assert child_variables("GAME_*").get("GAME_LEVEL") == "3" and "GAME_KEY" not in child_variables("GAME_*")
    assert child_variables("GAME_KEY")["GAME_KEY"] == "game-key"
    assert "HF_TOKEN" not in child_variables("HF_*")
    for wrong in ("", "*", "A B", "A=B", "*_KEY", "1A"):
        with pytest.raises(ValidationError):
            EnvironmentSettings(env=[wrong])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_an_environment_host_and_its_supervisor_get_no_secret(tmp_path: Path) -> None:
    host = HostProcess([], tmp_path / "log", ["GAME_LEVEL"])
    try:
        await host.start()
        assert host._process is not None
        for pid in (host._process.pid, *children_of(host._process.pid)):
            found = variables_of(pid)
            check(found)
            assert found["GAME_LEVEL"] == "3" and "GAME_KEY" not in found
        assert len(children_of(host._process.pid)) == 1
    finally:
        await host.stop()


async def test_a_learner_gets_its_own_key_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, out = dumping(tmp_path)
    monkeypatch.setattr(learner_process, "program", lambda _settings: [str(program)])
    runs: Any = None
    learner = LearnerProcess(
        LearnerSettings(env=["GAME_*"]),
        runs,
        data_dir=tmp_path,
        key="up-own",
        gpu_variables={"CUDA_VISIBLE_DEVICES": "1"},
        gpu_memory=None,
    )
    assert await learner._run_learner("run_1") == 3
    found = dumped(out)
    check(found, "UPTURN_KEY")
    assert (found["UPTURN_KEY"], found["CUDA_VISIBLE_DEVICES"], found["GAME_LEVEL"]) == ("up-own", "1", "3")
    assert found["OMP_NUM_THREADS"] == "1" and "GAME_KEY" not in found


async def test_vllm_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, out = dumping(tmp_path)
    monkeypatch.setattr(vllm_process, "command", lambda *_: [str(program)])
    monkeypatch.setattr(vllm_process.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(vllm_command, "is_cpu_build", lambda: True)
    with pytest.raises(EngineError, match="ended while starting"):
        await VllmProcess(VllmOptions(env=("GAME_LEVEL",)), tmp_path, tmp_path).start()
    found = dumped(out)
    check(found)
    assert (found["GAME_LEVEL"], found["HF_HUB_OFFLINE"]) == ("3", "1")


def test_a_browser_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("playwright")
    program, out = dumping(tmp_path)
    monkeypatch.setenv("CHROMIUM", str(program))
    made = browser.Browser()
    try:
        with pytest.raises(browser.BrowserDied):
            made.call(made._started())
    finally:
        made.close()
    check(dumped(out))


def test_java_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("py4j")
    pytest.importorskip("scienceworld")
    from env_adapters.protocol import EnvironmentFailure
    from env_adapters.sciworld.java import Java

    program, out = dumping(tmp_path)
    program.rename(tmp_path / "java")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(EnvironmentFailure):
        Java()
    check(dumped(out))


def test_the_question_for_gpus_passes_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, out = dumping(tmp_path)
    program.rename(tmp_path / "nvidia-smi")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus.list_gpus() == []
    check(dumped(out))


def test_every_start_of_a_child_process_names_its_variables() -> None:
    root = Path(__file__).parents[3]
    starts = (
        "create_subprocess_exec(",
        "create_subprocess_shell(",
        "subprocess.Popen(",
        "subprocess.run(",
        "multiprocessing",
    )
    found = {
        str(path.relative_to(root)): path.read_text()
        for room in ("server", "env_adapters")
        for path in (root / room).rglob("*.py")
        if any(start in path.read_text() for start in starts)
    }
    supervisor = found.pop("server/child_process.py")
    assert "env=" not in supervisor, "the supervisor passes on what it got"
    assert len(found) == 6 and all("env=" in text for text in found.values()), list(found)
