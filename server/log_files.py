"""Keeps the log files of child processes small: of vLLM, environment hosts, learners, and `notify.command`.

Those processes write to the files directly, for weeks. A file that has grown too large is copied to `NAME.1`, which it
replaces, and emptied; the processes append, so they continue at its beginning. Lines written during the copy are lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from server import background

log = logging.getLogger("upturn.log_files")

LIMIT_BYTES = 16 * 2**20
"""A file is cut above this size, so each takes at most twice as much; chosen by this project."""
KEPT_RUNS = 100
"""Learner logs that are kept, one for each run; chosen by this project."""
INTERVAL_S = 60.0


class LogFiles:
    """The log files in a data directory."""

    def __init__(self, data_dir: Path, limit_bytes: int = LIMIT_BYTES, kept_runs: int = KEPT_RUNS) -> None:
        self._data_dir, self._limit, self._kept = data_dir, limit_bytes, kept_runs
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look at the files now, and then every minute."""
        self._task = asyncio.create_task(self._keep_small())

    async def close(self) -> None:
        """Stop."""
        await background.end(self._task)

    def trim(self) -> None:
        """Cut the files that are too large, and delete the logs of old runs."""
        for file in self._files():
            if file.stat().st_size > self._limit:
                shutil.copyfile(file, file.with_name(f"{file.name}.1"))
                os.truncate(file, 0)
        runs = sorted(self._learners(), key=lambda file: file.stat().st_mtime)
        for file in runs[: max(0, len(runs) - self._kept)]:
            file.unlink(missing_ok=True)
            file.with_name(f"{file.name}.1").unlink(missing_ok=True)

    async def _keep_small(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.trim)
            except OSError as error:
                log.warning("cannot shorten the log files, retrying: %s", error)
            await asyncio.sleep(INTERVAL_S)

    def _files(self) -> Iterator[Path]:
        logs = self._data_dir / "logs"
        fixed = (self._data_dir / "vllm.log", logs / "environments.log", logs / "notify.log")
        yield from (file for file in fixed if file.is_file())
        yield from self._learners()

    def _learners(self) -> Iterator[Path]:
        return (self._data_dir / "logs").glob("learner-*.log")
