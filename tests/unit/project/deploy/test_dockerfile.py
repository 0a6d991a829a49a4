"""The Dockerfile's promises: its targets, what they run as, and where they write."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from env_adapters.child_variables import COMPUTE, SECRET, child_variables
from server.configuration.sources import check_environment
from server.settings import Settings
from tests.install.dockerfile import ROOT, Stage, needed, read

DOCKERFILE = ROOT / "Dockerfile"
TARGETS = ("cpu", "cuda")


def stages_of(target: str) -> list[Stage]:
    return needed(read(DOCKERFILE.read_text()), target)


def values(stages: list[Stage], instruction: str) -> list[str]:
    return [rest for stage in stages for name, rest in stage.instructions if name == instruction]


def variables(target: str) -> dict[str, str]:
    """Return the variables that containers of a target get."""
    own, found = {target, *inherited(target)}, {}
    for rest in values([stage for stage in stages_of(target) if stage.name in own], "ENV"):
        found |= dict(word.split("=", 1) for word in shlex.split(rest))
    return found


def inherited(target: str) -> list[str]:
    """Return the stages whose layers an image of a target has, apart from the last."""
    stages, names = read(DOCKERFILE.read_text()), []
    while (target := stages[target].parent) in stages:
        names.append(target)
    return names


def test_a_build_without_a_target_is_the_image_for_cpus() -> None:
    assert list(read(DOCKERFILE.read_text()))[-1] == "cpu"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_user_whom_kubernetes_knows_not_to_be_root(target: str) -> None:
    name, rest = stages_of(target)[-1].instructions[-1]
    assert name == "USER" and re.fullmatch(r"[1-9]\d*:[1-9]\d*", rest)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_no_compiler_but_the_one_that_triton_needs(target: str) -> None:
    own = {target, *inherited(target)}
    installs = " ".join(values([stage for stage in stages_of(target) if stage.name in own], "RUN"))
    assert ("gcc" in installs.split()) == (target == "cuda") and "make" not in installs.split()


@pytest.mark.parametrize("target", TARGETS)
def test_home_and_every_cache_are_in_the_volume(target: str) -> None:
    found = variables(target)
    assert values(stages_of(target), "VOLUME") == ["/data"]
    places = {name: value for name, value in found.items() if re.search(r"HOME|CACHE|DATA|DIR$", name)}
    assert places.keys() >= {"HOME", "UPTURN_DATA_DIR", "TORCHINDUCTOR_CACHE_DIR"}
    assert [name for name, value in places.items() if value.split("/")[1] != "data"] == []
    (added,) = re.findall(r"useradd (.*?) \\?&&", " ".join(values(stages_of(target), "RUN")))
    assert f"--home-dir {found['HOME']} " in added, "Java asks /etc/passwd"


@pytest.mark.parametrize("target", TARGETS)
def test_engine_and_learner_get_the_places_of_caches(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: value for name, value in variables(target).items() if re.search("HOME|CACHE", name)}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    assert child_variables(*COMPUTE).items() >= found.items()


@pytest.mark.parametrize("target", TARGETS)
def test_the_images_settings_exist_and_require_keys(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: value for name, value in variables(target).items() if name.startswith("UPTURN_")}
    check_environment(Settings, found)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load([])
    assert settings.keys_required and settings.port == int(*values(stages_of(target), "EXPOSE"))


@pytest.mark.parametrize("target", TARGETS)
def test_no_layer_holds_a_secret(target: str) -> None:
    words = [rest.split("=")[0] for rest in values(stages_of(target), "ARG")]
    words += [word.split("=")[0] for rest in values(stages_of(target), "ENV") for word in shlex.split(rest)]
    assert words and [word for word in words if any(fnmatchcase(word, pattern) for pattern in SECRET)] == []
    assert [argument for stage in stages_of(target)[-1:] for argument in values([stage], "ARG")] == []
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".env*", "*.env", "data"} <= set(ignored)


def test_changed_sources_install_no_packages_again() -> None:
    packages = [
        source
        for rest in values(stages_of("cpu")[:-1], "COPY")
        for source in rest.split()[:-1]
        if source.startswith(("server", "learner", "env_adapters", "migrations"))
    ]
    project = next(stage for stage in stages_of("cpu") if stage.name == "project")
    assert packages == [
        source for rest in values([project], "COPY") for source in rest.split()[:-1] if source in packages
    ]
    for name in ("packages-cpu", "packages-cuda"):
        assert "project" not in {stage.name for stage in needed(read(DOCKERFILE.read_text()), name)}


def test_everything_that_is_copied_exists() -> None:
    sources = [
        word
        for rest in values(list(read(DOCKERFILE.read_text()).values()), "COPY")
        if not rest.startswith("--from=")
        for word in rest.split()[:-1]
    ]
    assert len(sources) > 10 and [source for source in sources if not (ROOT / source).exists()] == []


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint has no wheel for this platform")
    done = subprocess.run(
        [program, "--config", ROOT / ".hadolint.yaml", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
