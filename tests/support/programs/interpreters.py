"""Programs with third-party packages whose pins conflict with this project's: each gets a venv or an npm folder.

One is made for a list of packages, by uv or npm, and stays in the user's cache. A test that cannot get one fails.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from installation.pip_settings import flags, for_uv, pip_settings

CACHE = Path.home() / ".cache" / "upturn-tests"


def interpreter(name: str, requirements: Path) -> Path:
    """Return the interpreter of a venv with the requirements, which the first call creates."""

    def install(made: Path) -> None:
        pip = pip_settings(sys.executable)
        variables = os.environ | for_uv(pip, os.environ)
        uv = [sys.executable, "-m", "uv", "--quiet"]
        subprocess.run([*uv, "venv", "--relocatable", "--python", sys.executable, made], check=True, env=variables)
        wanted = ["--requirement", requirements, *flags(pip, os.environ)]
        subprocess.run([*uv, "pip", "install", "--python", made, *wanted], check=True, env=variables)

    return _once(name, f"{sys.version}\n{requirements.read_text()}", install) / "bin" / "python"


def node_modules(name: str, package_json: Path) -> Path:
    """Return the `node_modules` of an npm package's dependencies, which the first call installs."""

    def install(made: Path) -> None:
        shutil.copy(package_json, made / "package.json")
        quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        subprocess.run(["npm", "install", *quiet], cwd=made, check=True, stdout=sys.stderr)

    return _once(name, package_json.read_text(), install) / "node_modules"


def _once(name: str, wanted: str, install: Callable[[Path], None]) -> Path:
    """Return the folder that `install` fills once for `wanted`."""
    home = CACHE / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    if not home.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=CACHE))
        try:
            install(made)
            made.rename(home)  # The final name marks it as complete; its programs do not mind.
        except OSError:
            if not home.exists():  # Otherwise another test run was first.
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return home
