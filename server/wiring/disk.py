"""The check of the disks, for `/readyz` and for notifications."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from server.readiness import Part
from server.settings import Settings
from server.store.database import Database, sqlite_file


class DiskCheck:
    """Whether the disks of data directory and database have space."""

    def __init__(self, directories: Sequence[Path], min_free_bytes: int) -> None:
        self._directories = directories
        self._min_free_bytes = min_free_bytes

    async def __call__(self) -> Part:
        """Return the state of the disk with the least space."""
        free = await asyncio.to_thread(lambda: min(shutil.disk_usage(path).free for path in self._directories))
        figures = {"free_bytes": free, "min_free_bytes": self._min_free_bytes}
        if free >= self._min_free_bytes:
            return Part(True, "ok", figures=figures)
        advice = "the disk of the data directory is nearly full: free space, or lower min_free_bytes"
        return Part(False, "no space", advice, code="disk_full", figures=figures)


def disk_check(settings: Settings, database: Database) -> DiskCheck:
    """Return the check of the disks that a server writes to."""
    file = sqlite_file(database.url)
    directories = [settings.data_dir.absolute(), *([] if file is None else [file.parent])]
    return DiskCheck(directories, settings.min_free_bytes)
