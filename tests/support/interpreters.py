"""Interpreters with third-party libraries whose pins conflict with this project's: each gets a venv.

A venv is created once for a list of requirements and stays in the user's cache; a test that cannot get one fails.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path.home() / ".cache" / "upturn-tests"


def interpreter(name: str, requirements: Path) -> Path:
    """Return the interpreter of a venv with the requirements, which the first call creates."""
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
            made.rename(home)  # The final name marks it as complete; an interpreter can be renamed.
        except OSError:
            shutil.rmtree(made)  # Another test run was first.
    return home / "bin" / "python"
