"""The examples of README.md and docs/first-run.md run exactly as they are printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live import Live, script, serving, settings_for

ROOT = Path(__file__).parents[3]
PRINTED = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    path = tmp_path_factory.mktemp("first")
    with serving(settings_for(path / "data", model=str(script(path / "script", "Yes.")))) as live:
        yield live


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(("page", "runs"), [("README.md", 1), ("docs/first-run.md", 3)])
def test_every_example_runs_as_printed_and_its_episodes_are_ready_to_train(
    first: Live, tmp_path: Path, page: str, runs: int
) -> None:
    for name, module in (("python", []), ("upturn", ["-m", "upturn"])):
        command = tmp_path / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {" ".join(module)} "$@"\n')
        command.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("UPTURN_")},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")]),
        "UPTURN_SERVER": first.url,
    }
    before = len(first.client.runs().data)
    blocks = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert {kind for kind, _ in blocks} == {"bash", "python"}
    for kind, block in blocks:
        assert PRINTED in block or "upturn " in block
        program = ["bash", "-euo", "pipefail", "-c"] if kind == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, block.replace(PRINTED, first.url)],
            cwd=tmp_path,
            env=environment,
            text=True,
            check=False,
            capture_output=True,
        )
        assert done.returncode == 0 and '"error"' not in done.stdout, (block, done.stdout, done.stderr)
    assert len(first.client.runs().data) - before == runs
    status = first.http.get("/v1/reward-sources").json()["data"]
    assert sum(source["count"] for source in status) >= 1
