"""Environments in other processes: the hosts, and instances that run on them.

Starts local hosts on demand, connects to hosts on other machines, places each new instance on the host with the fewest
instances, and detects a dead host: its episodes fail at once. `env_adapters/hosting/host.py` is the host's side.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from env_adapters.hosting.instances import checked_reward
from env_adapters.hosting.messages import LINE_BYTES, failure, line, read
from env_adapters.protocol import EnvironmentFailure, Reset, Transition
from server.environments.host_process import HostProcess
from server.environments.settings import EnvironmentSettings

log = logging.getLogger("upturn.hosts")
PING_S = 5.0
PATIENCE_S = 30.0
"""A host that does not answer for this long counts as dead; default chosen by this project. Only code that holds the
GIL blocks a live host for this long."""
AWAY_S = 30.0  # Delay before an unreachable host on another machine is tried again.
CONNECT_S = 5.0
MAX_STUCK = 4
"""Stuck threads from which on a local host gets no new instances and is replaced; default chosen by this project."""


class EnvironmentHostDied(EnvironmentFailure):
    """The process that ran the environment has died."""


class Link:
    """A connection to one host."""

    def __init__(self, name: str, process: HostProcess | None = None) -> None:
        self.name = name
        self.process = process
        self.instances = 0
        self.dead: str | None = None
        """The reason why it is dead, or None while it lives."""
        self.stuck = 0
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def takes_more(self) -> bool:
        """Whether it can get another instance."""
        return self.dead is None and (self.process is None or self.stuck < MAX_STUCK)

    async def connect(self, address: str, port: int, token: str | None) -> None:
        """Connect.

        Raises:
            OSError: nothing listens there, or it did not accept in time.
        """
        async with asyncio.timeout(CONNECT_S):
            reader, self._writer = await asyncio.open_connection(address, port, limit=LINE_BYTES)
        if token is not None:
            self._writer.write(line({"token": token}))
        self._tasks = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._ping())]

    async def ask(self, do: str, **fields: Any) -> Any:
        """Send a request and return its answer.

        Args:
            do: the request, as in `env_adapters/hosting/messages.py`.
            fields: its further fields.

        Raises:
            EnvironmentHostDied: the host died before it answered.
            EnvironmentFailure: or any other exception of the environment.
        """
        if self.dead is not None or self._writer is None:
            raise EnvironmentHostDied(f"the host {self.name} has died: {self.dead}")
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._writer.write(line({"id": number, "do": do, **fields}))
        try:
            with suppress(ConnectionError):  # `_listen` gets the same error and fails all pending requests.
                await self._writer.drain()
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """End the connection and, for a local host, its process."""
        self._die("it was stopped")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.process is not None:
            await self.process.stop()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        why = "its connection ended"
        try:
            while text := await reader.readline():
                self._settle(read(text))
        except (ConnectionError, ValueError) as error:  # ValueError: a line is too long, or not a message.
            why = f"its connection broke: {error}"
        self._die(why)

    def _settle(self, reply: dict[str, Any]) -> None:
        self.stuck = reply.get("stuck", self.stuck)
        answer = self._waiting.get(reply.get("id", 0))
        if answer is None or answer.done():
            return  # The caller was cancelled.
        if "error" in reply:
            answer.set_exception(failure(reply))
        else:
            answer.set_result(reply["ok"])

    async def _ping(self) -> None:
        with suppress(EnvironmentHostDied):
            while True:
                await asyncio.sleep(PING_S)
                try:
                    self.stuck = (await asyncio.wait_for(self.ask("health"), PATIENCE_S))["stuck"]
                except TimeoutError:
                    self._die(f"it has not answered for {PATIENCE_S:.0f} s")

    def _die(self, why: str) -> None:
        if self.dead is not None:
            return
        self.dead = why
        if self._writer is not None:
            self._writer.close()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(EnvironmentHostDied(f"the host {self.name} has died: {why}"))


class Hosted:
    """An instance on a host."""

    def __init__(self, link: Link, number: int, on_close: Callable[[Link], None]) -> None:
        self._link = link
        self._number = number
        self._on_close = on_close
        self._closed = False

    async def reset(self, task: str, seed: int) -> Reset:
        """Begin a task."""
        return Reset(**await self._ask("reset", task=task, seed=seed))

    async def step(self, text: str) -> Transition:
        """Act."""
        transition = Transition(**await self._ask("step", text=text))
        checked_reward(transition.reward)  # The host may be another program, on another machine.
        return transition

    async def oracle(self) -> str:
        """Return the solver's answer."""
        return str(await self._ask("oracle"))

    async def random(self, seed: str) -> str:
        """Return a random answer."""
        return str(await self._ask("random", seed=seed))

    async def close(self) -> None:
        """Release it. A host that has died holds nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(EnvironmentHostDied):
                await self._ask("close")
        finally:
            self._on_close(self._link)

    async def _ask(self, do: str, **fields: Any) -> Any:
        return await self._link.ask(do, instance=self._number, **fields)


class Hosts:
    """All hosts of this server."""

    def __init__(self, settings: EnvironmentSettings, log_path: Path) -> None:
        self._settings = settings
        self._log_path = log_path
        workers = settings.workers
        self._workers = max(1, (os.cpu_count() or 1) // 2) if workers is None else workers
        self._links: list[Link] = []
        self._away: dict[str, float] = {}
        """When to try an unreachable host again: monotonic seconds by its address."""
        self._choosing = asyncio.Lock()
        self._numbers = count(1)
        self._closing: set[asyncio.Task[None]] = set()

    async def make(self, environment: str) -> Hosted:
        """Make an instance on the host with the fewest instances.

        Raises:
            EnvironmentFailure: or any other exception of the environment.
        """
        link, number = await self._choose(), next(self._numbers)
        try:
            await link.ask("make", instance=number, environment=environment)
        except BaseException:
            self._release(link)
            raise
        return Hosted(link, number, self._release)

    async def close(self) -> None:
        """End all connections and the local hosts."""
        await asyncio.gather(*(link.close() for link in self._links), *self._closing)

    async def _choose(self) -> Link:
        async with self._choosing:
            for dead in [link for link in self._links if link.dead is not None]:
                self._drop(dead)
            await self._connect()
            usable = [link for link in self._links if link.takes_more]
            idle = any(link.instances == 0 for link in usable)
            if not idle and sum(link.process is not None for link in usable) < self._workers:
                usable.append(await self._start())
            if not usable:
                raise EnvironmentHostDied("no environment host is reachable")
            link = min(usable, key=lambda link: link.instances)
            link.instances += 1
            return link

    async def _connect(self) -> None:
        """Connect to the hosts on other machines that are not connected."""
        now = asyncio.get_running_loop().time()
        for name in self._settings.hosts:
            if any(link.name == name for link in self._links) or self._away.get(name, 0.0) > now:
                continue
            address, _, port = name.rpartition(":")
            link = Link(name)
            try:
                await link.connect(address.strip("[]"), int(port), await asyncio.to_thread(self._token))
                self._links.append(link)
            except OSError as error:
                self._away[name] = now + AWAY_S
                log.warning("the host %s is unreachable: %s", name, error)

    async def _start(self) -> Link:
        """Start a local host."""
        process = HostProcess(self._settings.modules, self._log_path, self._settings.env)
        port = await process.start()
        link = Link(f"127.0.0.1:{port}", process)
        try:
            await link.connect("127.0.0.1", port, None)
        except OSError as error:
            await process.stop()
            raise EnvironmentHostDied(f"a host process exited right after its start; see {self._log_path}") from error
        self._links.append(link)
        return link

    def _release(self, link: Link) -> None:
        link.instances -= 1
        if link.instances == 0 and not link.takes_more and link in self._links:
            self._drop(link)

    def _drop(self, link: Link) -> None:
        """Stop an unused host in the background."""
        self._links.remove(link)
        task = asyncio.create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _token(self) -> str | None:
        path = self._settings.token_file
        return path.read_text().strip() if path is not None else None
