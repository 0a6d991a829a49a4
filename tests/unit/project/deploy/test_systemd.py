"""The promises of the systemd unit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server.configuration.sources import check_environment
from server.settings import Settings

ROOT = Path(__file__).parents[4]
UNIT = ROOT / "deploy" / "systemd" / "upturn.service"


def setting(name: str) -> str:
    """Return the value of a setting that the unit has once."""
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(value)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/upturn/.venv/bin/python", sys.executable))
    done = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_only_the_server_gets_the_signal_and_it_has_time_to_drain() -> None:
    assert setting("KillMode") == "mixed"
    assert float(setting("TimeoutStopSec")) >= Settings.load([]).drain_s + 25


def test_the_units_variables_are_settings_and_all_places_writable() -> None:
    variables = dict(word.split("=", 1) for word in setting("Environment").split())
    check_environment(Settings, {name: value for name, value in variables.items() if name.startswith("UPTURN_")})
    writable = {f"/var/lib/{setting('StateDirectory')}", f"/var/cache/{setting('CacheDirectory')}"}
    assert {value for name, value in variables.items() if value.startswith("/")} == writable
    assert setting("ProtectSystem") == "strict" and setting("PrivateTmp") == "yes"


def test_nothing_that_engine_and_learner_need_is_taken_away() -> None:
    names = set(re.findall(r"^(\w+)=", UNIT.read_text(), re.MULTILINE))
    assert not names & {
        "MemoryDenyWriteExecute",
        "PrivateDevices",
        "ProtectClock",
        "DevicePolicy",
        "DeviceAllow",
        "ProcSubset",
    }


def test_the_unit_starts_the_server_with_a_settings_file_that_exists_as_an_example() -> None:
    words = setting("ExecStart").split()
    assert words[1:4] == ["-m", "server", "serve"]
    settings = Settings.load(["--config", str(ROOT / "examples" / "lan.toml")])
    assert str(settings.data_dir) == f"/var/lib/{setting('StateDirectory')}"
