"""The command: a program that gets each event as JSON on its standard input. It does not outlive the server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from env_adapters.child_variables import child_variables
from server.child_process import supervised
from server.notifications.target import NotDelivered

GRACE_S = 1.0
"""Time between asking the command to end and killing it, with every process that it started."""


class Command:
    """A target that is a program."""

    name = "command"

    def __init__(self, command: list[str], env: list[str], timeout_s: float, log: Path) -> None:
        """Prepare it.

        Args:
            command: program and arguments.
            env: names of further environment variables of this process that it gets.
            timeout_s: time limit of a call, in seconds.
            log: file for what it prints.
        """
        self._command = command
        self._env = env
        self._timeout_s = timeout_s
        self._log = log

    async def deliver(self, event_id: str, body: bytes) -> None:
        """Run the program; status 0 means that the event has arrived. The event has its id as a field.

        Raises:
            NotDelivered: the program cannot be started, ends with another status, or exceeds the time limit.
        """
        try:
            process = await self._start()
        except OSError as error:
            raise NotDelivered(f"the command cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                await process.communicate(body)
        except TimeoutError as error:
            raise NotDelivered(f"the command did not end within {self._timeout_s:g} s and was stopped") from error
        finally:
            await _stop(process)
        if process.returncode != 0:
            raise NotDelivered(f"the command ended with status {process.returncode}: see logs/{self._log.name}")

    async def close(self) -> None:
        """Do nothing: a call ends with the task that waits for it."""

    async def _start(self) -> asyncio.subprocess.Process:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *supervised(self._command, GRACE_S),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=child_variables(*self._env),
            )


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the program and wait for it; its supervisor kills it after `GRACE_S`."""
    if process.returncode is None:
        process.terminate()
        await process.wait()
