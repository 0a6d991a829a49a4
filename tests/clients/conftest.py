"""Interpreters with third-party agent libraries, and the environment variables that these libraries see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.programs.interpreters import interpreter

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


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
