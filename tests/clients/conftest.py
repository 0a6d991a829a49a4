"""Interpreters with third-party libraries, each in a virtual environment, since their pins differ from this project's.

An environment is created once per list of requirements, in the user's cache; a test fails if that is impossible.
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
    """Return the interpreter of a venv with the requirements, creating the venv at the first call."""
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
            made.rename(home)  # The final name marks a complete venv; the interpreter tolerates the rename.
        except OSError:
            shutil.rmtree(made)  # Another test run finished first.
    return home / "bin" / "python"


@pytest.fixture(scope="session")
def agents_python() -> Path:
    """Path of the interpreter with the agent libraries."""
    return interpreter("clients", REQUIREMENTS)


@pytest.fixture(scope="session")
def openenv_python() -> Path:
    """Path of the interpreter with OpenEnv."""
    return interpreter("openenv", REQUIREMENTS.with_name("openenv-requirements.txt"))


@pytest.fixture(scope="session")
def fastmcp_python() -> Path:
    """Path of the interpreter with FastMCP."""
    return interpreter("fastmcp", REQUIREMENTS.with_name("fastmcp-requirements.txt"))


@pytest.fixture
def environment() -> dict[str, str]:
    """Environment of the agent libraries: nothing of this project, telemetry off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UPTURN_", "PYTHON"))}
    return {
        **kept,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LANGSMITH_TRACING": "false",
    }
