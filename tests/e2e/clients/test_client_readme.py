"""The examples of the Python client's README run exactly as they are printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engines.settings import EngineSettings
from tests.support.live import Live, script, serving, settings_for

ROOT = Path(__file__).parents[3]
PRINTED = "http://127.0.0.1:8000"
BLOCKS = re.findall(
    r"```(bash|python)\n(.*?)```", (ROOT / "clients" / "python" / "README.md").read_text(), flags=re.DOTALL
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that answers yes."""
    home = tmp_path_factory.mktemp("readme")
    engine = EngineSettings(kind="scripted", context_tokens=32_768)
    with serving(settings_for(home / "data", model=str(script(home / "script", "Yes.")), engine=engine)) as live:
        yield live


@pytest.fixture
def variables(server: Live, tmp_path: Path) -> dict[str, str]:
    """Environment in which `python` and `upturn` are this checkout's."""
    command = tmp_path / "upturn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m upturn "$@"\n')
    command.chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("UPTURN_")},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients" / "python")]),
    }


def test_the_readme_has_an_example_of_each_kind() -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "python"} and len(BLOCKS) > 6


@pytest.mark.parametrize(("kind", "block"), BLOCKS, ids=[f"{n}-{kind}" for n, (kind, _) in enumerate(BLOCKS)])
def test_an_example_runs_as_printed(
    server: Live, variables: dict[str, str], tmp_path: Path, kind: str, block: str
) -> None:
    assert PRINTED in block
    program = ["bash", "-euo", "pipefail", "-c"] if kind == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*program, block.replace(PRINTED, server.url)],
        cwd=tmp_path,
        env=variables,
        text=True,
        check=False,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, "") or (kind == "bash" and done.returncode == 0), (block, done)
