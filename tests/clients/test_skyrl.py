"""SkyRL's search environment searches our corpus over Search-R1's protocol, unchanged."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.live import Live
from tests.support.programs.interpreters import interpreter

HERE = Path(__file__).parent

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]


def test_skyrl_plays_search_over_the_servers_retrieval(live: Live, environment: dict[str, str], tmp_path: Path) -> None:
    python = interpreter("skyrl", HERE / "skyrl-requirements.txt")
    done = subprocess.run(
        [python, HERE / "skyrl_search.py", f"{live.url}/retrieve"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["done"], said["reward"]) == ([False, False, True], 1.0)
    assert "Zambia: Country name" in said["seen"][0] and "Northern Rhodesia" in said["seen"][0]
    assert "Zambia: Capital" in said["seen"][1] and "Lusaka" in said["seen"][1]
