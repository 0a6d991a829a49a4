"""An interpreter that has the agents' own libraries: their pins are not this project's, so they get a venv.

It is made once for a list of requirements and lies in the user's cache; a test that cannot have it fails.
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


@pytest.fixture(scope="session")
def agents_python() -> Path:
    """Path of the interpreter."""
    wanted = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    home = CACHE / f"clients-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    if not home.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=CACHE))
        subprocess.run([sys.executable, "-m", "venv", made], check=True)
        subprocess.run([made / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input",
                        "-r", REQUIREMENTS], check=True)
        try:
            made.rename(home)  # The name says that it is whole; the interpreter does not mind another name.
        except OSError:
            shutil.rmtree(made)  # Another test run was first.
    return home / "bin" / "python"


@pytest.fixture
def environment() -> dict[str, str]:
    """What the agents' libraries see: nothing of this project, and no wish to call home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UPTURN_", "PYTHON"))}
    return {**kept, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_AGENTS_DISABLE_TRACING": "1",
            "LANGSMITH_TRACING": "false"}
