#!/usr/bin/env python3
"""Installs everything into .venv, then runs a command in it. Needs only Python 3.11 to 3.14.

    python3 run.py demo     serve a small model, train it on TextCraft while it serves, and show the difference
    python3 run.py test     run the tests; further arguments go to pytest
    python3 run.py check    run ruff, mypy and the import contracts
    python3 run.py serve    start the server; further arguments go to `python -m server serve`
    python3 run.py docs     build the documentation's pages into build/docs
    python3 run.py setup    only install, with all environments
    python3 run.py --version

The first command takes some minutes to install; the first `test`, `check` or `setup` adds packages; later commands
start within seconds. A GPU is assumed if `nvidia-smi` is on the PATH; ACCELERATOR=cpu or ACCELERATOR=cuda overrides
that. Packages come from PyPI, or from where pip is configured to look (docs/installing.md).
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from difflib import get_close_matches
from pathlib import Path

from installation import progress
from installation.machine import this_machine
from installation.venv_lock import Lock

ROOT = Path(__file__).resolve().parent
CLIENT = ROOT / "clients" / "python"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
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
    "docs": [["-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs/site", ".", "build/docs"]],
    "setup": [],
}
DEFAULTS = {"test": ["--numprocesses=logical", "--maxprocesses=4", "--dist=loadfile", "--no-loadscope-reorder"]}
"""The arguments of a command that is given none: all tests together run in parallel."""
ENVIRONMENTS = ["babyai", "search", "web", "gymnasium", "sciworld", "textworld"]


def extras(command: str, engine: str) -> list[str]:
    """Return the extras that a command needs. Only tests, checks, and `setup` install packages of environments."""
    return [
        *([engine] if engine else []),
        *("learn", "postgres", "demo"),
        *(["dev"] if command in ("test", "check") else []),
        *(["otlp"] if command in ("test", "check", "setup") else []),
        *(["docs"] if command in ("test", "docs") else []),
        *(ENVIRONMENTS if command in ("test", "check", "setup") else []),
    ]


def installed() -> tuple[str, set[str]]:
    """Return what .venv holds: the digest of its requirements, and its extras; "-name" is one that cannot be built.

    The stamp is written when everything is installed, so that half an installation counts as none.
    """
    digest, *names = STAMP.read_text().split() if STAMP.is_file() and PYTHON.exists() else [""]
    return digest, set(names)


def install(command: str, in_use: Lock) -> None:
    """Bring .venv up to date; takes milliseconds if it already is. On return, `in_use` is held, shared."""
    from installation.packages import InstallationError, Packages, digest_of_requirements

    machine = this_machine()
    try:
        accelerator = machine.accelerator(os.environ.get("ACCELERATOR", ""))
    except ValueError as error:
        sys.exit(str(error))
    wanted = extras(command, {"cuda": "gpu", "cpu": "cpu"}[accelerator] if machine.has_vllm(accelerator) else "")
    digest = hashlib.sha256("\n".join([sys.version, digest_of_requirements()]).encode()).hexdigest()

    def up_to_date() -> bool:
        present, names = installed()
        skipped = set() if command == "setup" else {name[1:] for name in names if name.startswith("-")}
        return present == digest and set(wanted) <= names | skipped

    if in_use.take(shared=True, wait_s=0) and up_to_date():
        return
    in_use.free()
    with Lock(ROOT / ".venv.lock") as alone:
        if not alone.take(wait_s=0):
            print("another run.py is installing into .venv: waiting for it", flush=True)
            alone.take()
        if not up_to_date():
            present, names = installed()
            fresh = present != digest
            if fresh and not in_use.take(wait_s=1):
                sys.exit("another run.py still runs a command from .venv, which has to be rebuilt: end that first")
            print(f"installing into {VENV} ({', '.join(wanted)}); the first time takes some minutes", flush=True)
            began = time.monotonic()
            try:
                if fresh:
                    make_venv()
                STAMP.unlink(missing_ok=True)
                packages = Packages(PYTHON, machine, accelerator, keep_open=[alone.file])
                left_out = packages.install(wanted, fresh=fresh)
            except InstallationError as error:
                sys.exit(str(error))
            except KeyboardInterrupt:
                sys.exit("interrupted; the next start installs again, from what is already downloaded")
            kept = set() if fresh else {name for name in names if name.removeprefix("-") not in wanted}
            kept |= {f"-{name}" if name in left_out else name for name in wanted}
            STAMP.write_text("\n".join([digest, *sorted(kept)]))
            print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
        in_use.take(shared=True)


def make_venv() -> None:
    """Make an empty .venv; exit if this Python cannot."""
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    if not progress.run(command, "making a virtual environment", os.environ).ok:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(f"this Python cannot make a virtual environment; on Debian: apt-get install python{version}-venv")


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
    refusal = this_machine().refusal()
    if refusal:
        sys.exit(refusal)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # As Ctrl-C: what is running ends with this process.
    try:
        in_use = Lock(ROOT / ".venv.in-use")
    except OSError as error:
        sys.exit(f"cannot write to {ROOT} ({error.strerror}): make it writable, or clone Upturn to another folder")
    install(command, in_use)
    worst = 0
    for each in COMMANDS[command]:
        code = wait_for([str(PYTHON), *each, *(arguments[1:] or DEFAULTS.get(command, []))], in_use)
        worst = worst or code
    return worst


def wait_for(command: list[str], in_use: Lock) -> int:
    """Run a command and return its exit code. Ctrl-C reaches the child too: wait until it has shut down."""
    # uv installs no bytecode: where Python may not write it either, vLLM starts in 80 s instead of 40.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    child = subprocess.Popen(command, cwd=ROOT, env=variables, pass_fds=[in_use.file])
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue
        except SystemExit:
            child.terminate()
            child.wait()
            raise


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
