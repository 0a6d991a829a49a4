"""The promises of compose.yaml and of the files that change it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.configuration.sources import check_environment
from server.settings import Settings

ROOT = Path(__file__).parents[4]
FILE = ROOT / "compose.yaml"
OVERRIDES = sorted((ROOT / "deploy" / "compose").glob("*.yaml"))
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[?-])?[^}]*\}")


def seconds(duration: str) -> float:
    """Return a duration such as `90s`."""
    return float(duration.removesuffix("s"))


@pytest.mark.parametrize("file", [FILE, *OVERRIDES], ids=lambda file: file.name)
def test_the_file_fits_the_schema_of_the_compose_specification(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_server_is_published_and_only_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"server": ["${PUBLISH:-127.0.0.1:8000}:8000"]}


def test_a_start_without_passwords_is_refused() -> None:
    found = VARIABLE.findall(FILE.read_text())
    passwords = {(name, rule) for name, rule in found if "PASSWORD" in name}
    assert {name for name, _ in passwords} == {"POSTGRES_PASSWORD", "GRAFANA_PASSWORD"}
    assert {rule for _, rule in passwords} == {":?"}
    assert not re.search(r"password: (?!\$\{)", FILE.read_text(), re.IGNORECASE)


def test_the_example_names_every_variable_and_holds_no_password() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert example.keys() == {name for name, _ in VARIABLE.findall(FILE.read_text())}
    assert {value for name, value in example.items() if "PASSWORD" in name} == {""}
    ignored = subprocess.run(["git", "check-ignore", ".env", "upturn.env"], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout.split() == [".env", "upturn.env"]


def test_the_server_has_time_to_drain_and_to_end_its_children() -> None:
    assert seconds(SERVICES["server"]["stop_grace_period"]) >= Settings.load([]).drain_s + 25


@pytest.mark.parametrize("name", ["server", "metrics-key", "prometheus"])
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_server_writes_to_its_volume_and_tmp_only() -> None:
    assert (SERVICES["server"]["volumes"], SERVICES["server"]["tmpfs"]) == (["data:/data"], ["/tmp"])


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ("server", "metrics-key")])
def test_a_long_running_service_says_whether_it_is_healthy(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD" and SERVICES[name]["restart"] == "unless-stopped"


def test_images_of_others_have_fixed_versions() -> None:
    images = {service["image"] for service in SERVICES.values() if "build" not in service}
    assert images and all(re.search(r":v?\d+", image) for image in images)


def test_database_and_metrics_are_reached_by_those_who_need_them_only() -> None:
    networks = yaml.safe_load(FILE.read_text())["networks"]
    assert networks["database"] == networks["monitoring"] == {"internal": True}
    reach = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert {name for name, among in reach.items() if "database" in among} == {"server", "metrics-key", "postgres"}
    assert {name for name, among in reach.items() if "default" in among} == {"server"}


def test_every_file_that_is_mounted_exists() -> None:
    mounted = [word.split(":")[0] for service in SERVICES.values() for word in service.get("volumes", [])]
    paths = [path for path in mounted if path.startswith(".")]
    assert len(paths) > 2 and [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", ["server", "metrics-key"])
def test_the_servers_variables_are_settings(name: str) -> None:
    variables = {key: value for key, value in SERVICES[name]["environment"].items() if key.startswith("UPTURN_")}
    assert variables
    check_environment(Settings, variables)


@pytest.mark.parametrize("file", OVERRIDES, ids=lambda file: file.name)
def test_a_file_over_compose_changes_services_that_exist(file: Path) -> None:
    changed = yaml.safe_load(file.read_text())["services"]
    assert changed.keys() <= SERVICES.keys()
    ports = [port for service in changed.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_with_a_gpu_every_service_of_the_image_takes_the_other_one() -> None:
    changed = yaml.safe_load((ROOT / "deploy" / "compose" / "gpu.yaml").read_text())["services"]
    assert changed.keys() == {name for name, service in SERVICES.items() if "build" in service}
    assert {(service["image"], service["build"]["target"]) for service in changed.values()} == {("upturn:cuda", "cuda")}
