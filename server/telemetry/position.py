"""How far an export has come: kept in a file, so that a restart continues there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Position:
    """A small JSON object that is replaced as a whole. An unreadable file counts as none."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        """Return the kept object; empty before the first."""
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, position: dict[str, Any]) -> None:
        """Replace the kept object."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f"{self._path.name}.new")
        beside.write_text(json.dumps(position))
        os.replace(beside, self._path)
