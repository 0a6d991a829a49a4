"""Runs the steps of the Dockerfile in a chroot, for machines without a container engine. Needs root and debootstrap.

    python tests/install/dockerfile.py [--build-arg NAME=VALUE ...] [--root FOLDER]

Debian bookworm with its own Python 3.11 stands in for `python:3.11-slim`. Both stages use one root: the second begins
without what the first one made in /upturn, except what it copies from there, and has the build stage's packages on its
disk. At the end the health check must pass while the server runs as the image's user. Variables PIP_* and the machine's
certificates are handed to the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Image:
    """A root file system, and the state that instructions change."""

    def __init__(self, root: Path, arguments: dict[str, str]) -> None:
        self.root, self.arguments = root, arguments
        self.variables: dict[str, str] = {}
        self.folder, self.user = "/", "root"

    def command(self, command: list[str]) -> list[str]:
        """Return the call of a command in the root, as the image's user with its variables."""
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        paths = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": f"/home/{self.user}"}
        variables = {**paths, **kept, **self.variables}
        words = [f"{name}={value}" for name, value in variables.items()]
        inside = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        return ["chroot", f"--userspec={self.user}", str(self.root), "/usr/bin/env", "-i", *words, "sh", "-c", inside]

    def run(self, command: list[str]) -> None:
        """Run a command; end the program if it fails."""
        subprocess.run(self.command(command), check=True)

    def copy(self, words: list[str]) -> None:
        """Copy from the project, or from what the build stage left."""
        stage = [word for word in words if word.startswith("--from=")]
        *sources, target = [word for word in words if word not in stage]
        to = self.root / f"{self.folder}/{target}".lstrip("/")
        for source in sources:
            found = self.root / "stage" / source.lstrip("/") if stage else ROOT / source
            if found.is_dir() and not target.endswith("/"):
                shutil.copytree(
                    found, to, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                into = to / found.name if target.endswith("/") else to
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, into)

    def follow(self, name: str, rest: str) -> None:
        """Carry out one instruction."""
        if name == "FROM":
            self.folder, self.user, self.variables = "/", "root", {}
            if (self.root / "upturn").exists():
                (self.root / "stage").mkdir()
                (self.root / "upturn").rename(self.root / "stage" / "upturn")
        elif name == "ARG":
            key, _, default = rest.partition("=")
            if value := self.arguments.get(key, default):
                self.variables[key] = value
        elif name == "ENV":
            path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
            self.variables |= dict(word.replace("$PATH", path).split("=", 1) for word in shlex.split(rest))
        elif name == "WORKDIR":
            self.folder = rest
            (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            self.copy(rest.split())
        elif name == "RUN":
            self.run(["sh", "-ec", rest])
        elif name == "USER":
            self.user = rest


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, without comments and with continued lines joined."""
    bare = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    return [
        (name, rest.strip())
        for name, rest in (line.split(" ", 1) for line in re.sub(r"\\\n\s*", " ", bare).splitlines() if line.strip())
    ]


def bootstrap(root: Path) -> None:
    """Install Debian bookworm with its Python, and this machine's certificates and resolver."""
    packages = "--include=python3,python3-venv,ca-certificates"
    if not (root / "usr/bin/python3").exists():
        subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", str(root)], check=True)
    for name in ("python", "python3"):
        link = root / "usr/local/bin" / name
        if not link.is_symlink():
            link.symlink_to("/usr/bin/python3")
    (root / "dev/shm").mkdir(mode=0o1777, exist_ok=True)
    (root / "dev/shm").chmod(0o1777)
    for file in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(f"/{file}", root / file)


def main() -> int:
    """Build, start, check health; return 0 if the server became healthy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--root", type=Path, help="an existing bookworm, which is changed; default: a temporary one")
    options = parser.parse_args()
    root = options.root or Path(tempfile.mkdtemp(prefix="upturn-image-"))
    image = Image(root, dict(word.split("=", 1) for word in options.build_arg))
    commands: dict[str, list[str]] = {}
    bootstrap(root)
    proc = root / "proc"
    subprocess.run(["mount", "-t", "proc", "proc", str(proc)], check=True)
    try:
        for name, rest in instructions((ROOT / "Dockerfile").read_text()):
            began = time.monotonic()
            print(f"--- {name} {rest[:100]}", flush=True)
            if name in ("CMD", "HEALTHCHECK"):
                commands[name] = words_of(rest)
            image.follow(name, rest)
            print(f"    {time.monotonic() - began:.1f} s", flush=True)
        return healthy(image, commands["CMD"], commands["HEALTHCHECK"])
    finally:
        subprocess.run(["umount", "--lazy", str(proc)], check=True)  # Or it would be deleted with the root.
        if not options.root:
            shutil.rmtree(root)


def words_of(rest: str) -> list[str]:
    """Return the words of an instruction in JSON form, which follow its flags."""
    return [str(word) for word in json.loads(rest[rest.index("[") :])]


def healthy(image: Image, command: list[str], check: list[str]) -> int:
    """Start the server, wait until the health check passes, and end it."""
    server = subprocess.Popen(image.command(command), start_new_session=True)
    try:
        for _ in range(600):
            if server.poll() is not None:
                return 1
            if subprocess.run(image.command(check), capture_output=True, check=False).returncode == 0:
                print("healthy", flush=True)
                return 0
            time.sleep(1)
        return 1
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


if __name__ == "__main__":
    sys.exit(main())
