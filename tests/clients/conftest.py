"""Interpreters that have other people's libraries: their pins are not this project's, so they get a venv.

One is made once for a list of requirements and lies in the user's cache; a test that cannot have it fails.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
CACHE = Path.home() / ".cache" / "upturn-tests"


def interpreter(name: str, requirements: Path) -> Path:
    """Return the interpreter of a venv that has the requirements, making it at the first call."""
    wanted = f"{sys.version}\n{requirements.read_text()}"
    home = CACHE / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    if not home.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=CACHE))
        subprocess.run([sys.executable, "-m", "venv", made], check=True)
        subprocess.run(
            [made / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input", "-r", requirements], check=True
        )
        try:
            made.rename(home)  # The name says that it is whole; the interpreter does not mind another name.
        except OSError:
            shutil.rmtree(made)  # Another test run was first.
    return home / "bin" / "python"


@pytest.fixture(scope="session")
def agents_python() -> Path:
    """Path of the interpreter that has agents' libraries."""
    return interpreter("clients", REQUIREMENTS)


@pytest.fixture(scope="session")
def openenv_python() -> Path:
    """Path of the interpreter that has OpenEnv."""
    return interpreter("openenv", REQUIREMENTS.with_name("openenv-requirements.txt"))


@pytest.fixture(scope="session")
def fastmcp_python() -> Path:
    """Path of the interpreter that has FastMCP."""
    return interpreter("fastmcp", REQUIREMENTS.with_name("fastmcp-requirements.txt"))


@pytest.fixture
def environment() -> dict[str, str]:
    """What the agents' libraries see: nothing of this project, and no wish to call home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UPTURN_", "PYTHON"))}
    return {
        **kept,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LANGSMITH_TRACING": "false",
    }
