"""Every run that the README, the docs and the examples show is accepted, with full weights and with adapters."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from server.settings import Settings
from tests.support.live import script, serving, settings_for
from upturn.wire import RunClaim, RunConfig, RunRequest

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = {
    f"{page.relative_to(ROOT)}:{number}": (language, text)
    for page in PAGES
    for number, (language, text) in enumerate(re.findall(r"```(toml|json)\n(.*?)```", page.read_text(), re.DOTALL))
} | {f"examples/{file.name}": ("toml", file.read_text()) for file in sorted((ROOT / "examples").glob("*.toml"))}
READ = {where: (tomllib if language == "toml" else json).loads(text) for where, (language, text) in SHOWN.items()}
RUNS = {where: values for where, values in READ.items() if "steps" in values}
SETTINGS = {where: SHOWN[where][1] for where, values in READ.items() if "schedule" in values and where not in RUNS}


def test_there_are_some() -> None:
    assert len(SETTINGS) >= 4 and len(RUNS) >= 2
    assert any(where.startswith("README.md") for where in SETTINGS)


@pytest.mark.parametrize("kind", ["full", "adapter"])
@pytest.mark.parametrize("where", SETTINGS)
def test_a_server_starts_with_the_schedule_and_its_run_can_be_claimed(tmp_path: Path, where: str, kind: str) -> None:
    file = tmp_path / "upturn.toml"
    file.write_text(SETTINGS[where])
    loaded = Settings.load(["--config", str(file)])
    model = script(tmp_path / "script", "Hello.")
    weights = kind if loaded.weights == "auto" else loaded.weights
    changes = {"schedule": loaded.schedule, "gate": loaded.gate, "weights": weights}
    with serving(settings_for(tmp_path / "data", model=str(model), **changes)) as live:
        run = live.client.create_run(RunRequest())
        claimed = live.client.claim_run(RunClaim(learner="tester"))
        assert claimed is not None and (claimed.id, claimed.config.kind) == (run.id, weights)


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_the_configs_of_runs_are_accepted(tmp_path: Path, kind: str) -> None:
    model = script(tmp_path / "script", "Hello.")
    with serving(settings_for(tmp_path / "data", model=str(model), weights=kind)) as live:
        for where, config in RUNS.items():
            run = live.client.create_run(RunRequest(config=RunConfig.model_validate(config)))
            assert run.config.kind == kind, where
