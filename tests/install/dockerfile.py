"""Runs the steps of the Dockerfile in a chroot, for machines without a container engine. Needs root and debootstrap.

    python tests/install/dockerfile.py [--target cpu] [--build-arg NAME=VALUE ...] [--root FOLDER]

Debian bookworm with its own Python 3.11 stands in for `python:3.11-slim-bookworm`. The stages of a target use one root
and have each other's Debian packages; /upturn is each stage's own. At the end the health check must pass while the
server runs as the image's user and can write to /data, /tmp and /dev/shm only. Variables PIP_* and the machine's
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATHS = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
FLAGS = re.compile(r"(--\S+\s+)*")


@dataclass
class Stage:
    """The instructions of one stage, and the state that they have left."""

    name: str
    parent: str
    instructions: list[tuple[str, str]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"

    @property
    def sources(self) -> list[str]:
        """The stages that this one is built from."""
        return [self.parent, *(found[1] for _, rest in self.instructions if (found := re.match(r"--from=(\S+)", rest)))]


class Image:
    """A root file system, in which the stages run one after the other."""

    def __init__(self, root: Path, stages: dict[str, Stage], arguments: dict[str, str]) -> None:
        self.root, self.stages, self.arguments = root, stages, arguments

    def command(self, stage: Stage, command: list[str]) -> list[str]:
        """Return the call of a command in the root, as the stage's user with its variables."""
        kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        variables = {"PATH": PATHS, "HOME": "/root", **kept, **stage.variables}
        words = [f"{name}={value}" for name, value in variables.items()]
        inside = f"cd {shlex.quote(stage.folder)} && exec {shlex.join(command)}"
        return ["chroot", f"--userspec={stage.user}", str(self.root), "/usr/bin/env", "-i", *words, "sh", "-c", inside]

    def build(self, stage: Stage) -> None:
        """Run a stage, from its parent's state; leave its /upturn where `place` says."""
        project = self.root / "upturn"
        if parent := self.stages.get(stage.parent):
            stage.variables, stage.folder, stage.user = deepcopy(parent.variables), parent.folder, parent.user
            if self.place(parent).exists():
                subprocess.run(["cp", "-a", self.place(parent), project], check=True)
        for name, rest in stage.instructions:
            began = time.monotonic()
            print(f"--- {stage.name}: {name} {rest[:100]}", flush=True)
            self.follow(stage, name, rest)
            print(f"    {time.monotonic() - began:.1f} s", flush=True)
        if project.exists():
            self.place(stage).parent.mkdir(exist_ok=True)
            project.rename(self.place(stage))

    def place(self, stage: Stage) -> Path:
        """Return where a finished stage's /upturn is."""
        return self.root / "stages" / stage.name

    def follow(self, stage: Stage, name: str, rest: str) -> None:
        """Carry out one instruction."""
        if name == "ARG":
            key, _, default = rest.partition("=")
            if value := self.arguments.get(key, default):
                stage.variables[key] = value
        elif name == "ENV":
            stage.variables |= dict(word.replace("$PATH", PATHS).split("=", 1) for word in shlex.split(rest))
        elif name == "WORKDIR":
            stage.folder = rest
            (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            self.copy(stage, rest.split())
        elif name == "RUN":
            command = rest[FLAGS.match(rest).end() :]  # type: ignore[union-attr]
            subprocess.run(self.command(stage, ["sh", "-ec", command]), check=True)
        elif name == "USER":
            stage.user = rest

    def copy(self, stage: Stage, words: list[str]) -> None:
        """Copy from the project, or from another stage's /upturn. What a folder contains is copied, not the folder."""
        source_stage = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
        *sources, target = [word for word in words if not word.startswith("--from=")]
        to = self.root / f"{stage.folder}/{target}".lstrip("/")
        for source in sources:
            if source_stage:
                found = self.place(self.stages[source_stage]) / source.removeprefix("/upturn").lstrip("/")
                to.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-a", f"{found}/.", to], check=True)
            elif (found := ROOT / source).is_dir():
                shutil.copytree(found, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                into = to / found.name if target.endswith("/") else to
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, into)


def read(text: str) -> dict[str, Stage]:
    """Return the stages of a Dockerfile by name, in its order; comments are dropped and continued lines joined."""
    bare = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    for line in re.sub(r"\\\n\s*", " ", bare).splitlines():
        if found := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            stages[found[2]] = Stage(found[2], found[1])
        elif line.strip():
            name, rest = line.split(" ", 1)
            stages[next(reversed(stages))].instructions.append((name, rest.strip()))
    return stages


def needed(stages: dict[str, Stage], target: str) -> list[Stage]:
    """Return the stages that a target is built from, in the file's order, with the target last."""
    names: set[str] = set()

    def add(name: str) -> None:
        if name in stages and name not in names:
            names.add(name)
            for source in stages[name].sources:
                add(source)

    add(target)
    return [stage for stage in stages.values() if stage.name in names]


def bootstrap(root: Path) -> None:
    """Install Debian bookworm with its Python, and this machine's certificates and resolver."""
    packages = "--include=python3,python3-venv,ca-certificates"
    if not (root / "usr/bin/python3").exists():
        subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", str(root)], check=True)
    for name in ("python", "python3"):
        link = root / "usr/local/bin" / name
        if not link.is_symlink():
            link.symlink_to("/usr/bin/python3")
    for file in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(f"/{file}", root / file)


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """Mount something until the block ends."""
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True)  # Or it would be deleted with the root.


@contextmanager
def read_only(root: Path) -> Iterator[None]:
    """Make a root read-only, except for what `docker run --read-only --tmpfs /tmp -v data:/data` leaves writable."""
    with tempfile.TemporaryDirectory(prefix="upturn-data-") as data, ExitStack() as mounts:
        shutil.copystat(root / "data", data)
        os.chown(data, (root / "data").stat().st_uid, (root / "data").stat().st_gid)
        mounts.enter_context(mounted("--bind", root, root))
        subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
        mounts.enter_context(mounted("-t", "proc", "proc", root / "proc"))
        mounts.enter_context(mounted("--bind", "-o", "ro", "/sys", root / "sys"))
        for place in ("tmp", "dev/shm"):
            mounts.enter_context(mounted("-t", "tmpfs", "-o", "nosuid,nodev,noexec,mode=1777", "tmpfs", root / place))
        mounts.enter_context(mounted("--bind", data, root / "data"))
        yield


def words_of(stages: list[Stage], instruction: str) -> list[str]:
    """Return the words of the last instruction of a kind, which is in JSON form and follows its flags."""
    *_, rest = [rest for stage in stages for name, rest in stage.instructions if name == instruction]
    return [str(word) for word in json.loads(rest[rest.index("[") :])]


def healthy(image: Image, stages: list[Stage]) -> int:
    """Start the server, wait until the health check passes, and end it."""
    command, check = (image.command(stages[-1], words_of(stages, kind)) for kind in ("CMD", "HEALTHCHECK"))
    server = subprocess.Popen(command, start_new_session=True)
    try:
        for _ in range(600):
            if server.poll() is not None:
                return 1
            if subprocess.run(check, capture_output=True, check=False).returncode == 0:
                print("healthy", flush=True)
                return 0
            time.sleep(1)
        return 1
    finally:
        if server.poll() is None:
            os.killpg(server.pid, 15)
            server.wait(90)


def main() -> int:
    """Build, start, check health; return 0 if the server became healthy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", default="cpu", help="a stage of the Dockerfile")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--root", type=Path, help="an existing bookworm, which is changed; default: a temporary one")
    options = parser.parse_args()
    root = options.root or Path(tempfile.mkdtemp(prefix="upturn-image-"))
    root.chmod(0o755)
    stages = read((ROOT / "Dockerfile").read_text())
    chosen = needed(stages, options.target)
    image = Image(root, stages, dict(word.split("=", 1) for word in options.build_arg))
    bootstrap(root)
    try:
        with mounted("-t", "proc", "proc", root / "proc"):
            for stage in chosen:
                image.build(stage)
        image.place(chosen[-1]).rename(root / "upturn")
        with read_only(root):
            return healthy(image, chosen)
    finally:
        if not options.root:
            shutil.rmtree(root)


if __name__ == "__main__":
    sys.exit(main())
