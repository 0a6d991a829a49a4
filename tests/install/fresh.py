"""Installs for real from a fresh clone: empty caches, no compiler on the PATH, then serves a model and chats with it.

    python tests/install/fresh.py           as pip is configured on this machine
    python tests/install/fresh.py --pypi    without pip's configuration: everything from PyPI (3.3 GB)

Clones the last commit into a temporary folder, prints each phase's seconds and, as its last line, one JSON object, and
deletes what it made. `--keep` leaves the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = re.compile(
    r"(.*-)?(gcc|g\+\+|cc|c\+\+|cpp|clang|clang\+\+|c89|c99|make|gmake|ld|as|nvcc)([-.][\w.-]*)?|cmake|ninja|python.*|pip.*|uv"
)
SILENCE_S = 15
"""Longer without a line is reported."""


def main() -> int:
    """Run all phases; return 0 if every one succeeded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pypi", action="store_true", help="ignore pip's configuration")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="upturn-fresh-"))
    try:
        return check(folder, pypi=options.pypi)
    finally:
        if options.keep:
            print(f"left in {folder}")
        else:
            shutil.rmtree(folder)


def check(folder: Path, *, pypi: bool) -> int:
    """Clone, install, serve, chat."""
    checkout = folder / "upturn"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    variables = environment(folder, pypi=pypi)
    installed, install_s, silence_s = lines(["python3", "run.py", "setup"], checkout, variables)
    found: dict[str, object] = {"pypi": pypi, "install_s": install_s, "longest_silence_s": silence_s}
    found["venv_gb"] = round(sum(f.lstat().st_size for f in (checkout / ".venv").rglob("*")) / 1e9, 1)
    found["left_out"] = re.findall(r"left out: (\w+)", installed)
    if (checkout / ".venv" / "upturn-installed").is_file():
        found |= serve(checkout, folder / "data", variables)
    print(json.dumps(found))
    return 0 if "answer" in found and silence_s <= SILENCE_S else 1


def environment(folder: Path, *, pypi: bool) -> dict[str, str]:
    """Return the variables of a machine with this Python and every program but compilers, and nothing in its caches."""
    programs, home = folder / "bin", folder / "home"
    programs.mkdir()
    home.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            target = programs / program.name
            if not COMPILERS.fullmatch(program.name) and not target.exists():
                target.symlink_to(program)
    (programs / "python3").symlink_to(os.path.realpath(sys.executable))
    variables = {"HOME": str(home), "PATH": str(programs), "TMPDIR": tempfile.gettempdir()}
    kept = re.compile(r"PIP_CERT|SSL_CERT_\w+|\w+_PROXY" if pypi else r"PIP_\w+|UV_\w+|SSL_CERT_\w+|\w+_PROXY", re.I)
    variables |= {name: value for name, value in os.environ.items() if kept.fullmatch(name)}
    return {**variables, **({"PIP_CONFIG_FILE": os.devnull} if pypi else {})}


def lines(command: list[str], folder: Path, variables: dict[str, str]) -> tuple[str, float, float]:
    """Run a command, print its lines with the seconds; return its output, its seconds, and its longest silence."""
    began = last = time.monotonic()
    silence, output = 0.0, []
    path = shutil.which(command[0], path=variables["PATH"]) or command[0]
    with subprocess.Popen(
        [path, *command[1:]], cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            now = time.monotonic()
            silence, last = max(silence, now - last), now
            output.append(line)
            print(f"{now - began:6.1f} s  {line}", end="", flush=True)
    return "".join(output), round(time.monotonic() - began, 1), round(silence, 1)


def serve(checkout: Path, data: Path, variables: dict[str, str]) -> dict[str, object]:
    """Start the server as the README says, chat once, and end it."""
    began = time.monotonic()
    command = [str(Path(variables["PATH"]) / "python3"), "run.py", "serve", "--port", "0", "--data-dir", str(data)]
    with subprocess.Popen(
        command, cwd=checkout, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        try:
            for line in server.stdout:
                print(f"{time.monotonic() - began:6.1f} s  {line}", end="", flush=True)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    chat = {"model": "policy", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
                    request = urllib.request.Request(
                        f"{found[0]}/v1/chat/completions",
                        json.dumps(chat).encode(),
                        {"content-type": "application/json"},
                    )
                    answer = answered(request, server)
                    engine = "vllm" if (data / "vllm.log").exists() else "local"
                    return {"engine": engine, "serve_s": round(time.monotonic() - began, 1), "answer": answer}
            return {"serve": "ended without an address"}
        finally:
            server.send_signal(signal.SIGTERM)
            for _ in server.stdout:  # It logs while it ends; a full pipe would hold it.
                pass


def answered(request: urllib.request.Request, server: subprocess.Popen[str]) -> str:
    """Ask until the model is loaded, and return the answer's text."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return str(json.load(response)["choices"][0]["message"]["content"])
        except OSError:
            time.sleep(2)
    raise SystemExit("the server ended")


if __name__ == "__main__":
    sys.exit(main())
