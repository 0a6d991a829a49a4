"""Runs that start by themselves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from clients.wire import RunConfig
from server.settings import ScheduleSettings, Settings
from tests.live import script, serving, settings_for


def test_an_interval_starts_one_run_at_a_time(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello.")
    schedule = ScheduleSettings(interval_s=0.3, run=RunConfig(steps=1))
    with serving(settings_for(tmp_path / "data", model=str(model), schedule=schedule)) as live:
        shown = live.http.get("/v1/schedule").json()
        assert shown["interval_s"] == 0.3 and shown["next_at"] > time.time() - 1
        time.sleep(1.5)
        runs = live.client.runs().data
        assert [(r.trigger, r.state) for r in runs] == [("interval", "queued")], "an unfinished run must not be joined"
        live.client.cancel_run(runs[0].id)
        deadline = time.monotonic() + 5
        while len(live.client.runs().data) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(live.client.runs().data) == 2


def test_an_interval_needs_a_run() -> None:
    with pytest.raises(ValidationError, match=r"needs schedule\.run"):
        ScheduleSettings(interval_s=5)


def test_flags_win_over_the_environment_and_that_over_the_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "upturn.toml"
    file.write_text('port = 1\nname = "file"\ndefault_horizon = 7\n[engine]\nkind = "local"\n')
    monkeypatch.setenv("UPTURN_PORT", "2")
    monkeypatch.setenv("UPTURN_NAME", "environment")
    settings = Settings.load(["--config", str(file), "--port", "3"])
    assert (settings.port, settings.name, settings.default_horizon, settings.engine.kind) == (
        3, "environment", 7, "local")


@pytest.mark.parametrize("wrong", ["prot = 1", '[engine]\nkid = "local"', "port = 70000"])
def test_a_wrong_setting_in_the_file_is_refused(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "upturn.toml"
    file.write_text(wrong)
    with pytest.raises(ValidationError):
        Settings.load(["--config", str(file)])


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPTURN_PROT", "1")
    with pytest.raises(ValueError, match="UPTURN_PROT"):
        Settings.load([])
