"""A host: a process that runs environments for servers (`python -m env_adapters serve`).

Responsible for connections, for each connection's own instances, and for answering every call in bounded time. Calls of
different instances run concurrently, calls of one instance sequentially. `messages.py` encodes the lines, `workers.py`
runs the threads and enforces their limits.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from contextlib import suppress
from typing import Any

from env_adapters.hosting.instances import MAKE_LIMIT_S, Instance, open_instance
from env_adapters.hosting.messages import LINE_BYTES, failed, line, read, reset_message, transition_message
from env_adapters.hosting.workers import Workers
from env_adapters.protocol import EnvironmentFailure
from env_adapters.registry import environment_spec

log = logging.getLogger("env_adapters.hosting.host")
TOKEN_S = 10.0
"""How long a caller may take to send the token; default chosen by this project."""


class Host:
    """Serves environments to every caller that connects and, if there is a token, sends it."""

    def __init__(self, token: str | None = None) -> None:
        self._token = token
        self._workers = Workers()
        self._connections: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self.instances = 0
        """Number of open instances of all connections."""

    async def start(self, address: str, port: int) -> int:
        """Listen and return the port."""
        self._server = await asyncio.start_server(self._serve, address, port, limit=LINE_BYTES)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        """Stop listening and close every instance."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._workers.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        connection = _Connection(self, self._workers, writer)
        try:
            if await self._authenticate(reader):
                await connection.run(reader)
        except (ConnectionError, ValueError) as error:  # ValueError: a line is too long, or not a message.
            log.warning("closing a connection: %s", error)
        except asyncio.CancelledError:
            pass  # The host is stopping, and nothing awaits this task.
        finally:
            writer.close()
            await connection.close()
            self._connections.discard(task)

    async def _authenticate(self, reader: asyncio.StreamReader) -> bool:
        if self._token is None:
            return True
        with suppress(TimeoutError, ValueError):
            async with asyncio.timeout(TOKEN_S):
                token = read(await reader.readline()).get("token")
            if isinstance(token, str) and hmac.compare_digest(token.encode(), self._token.encode()):
                return True
        log.warning("refused a caller without a valid token")
        return False


class _Connection:
    """A server's connection and its instances."""

    def __init__(self, host: Host, workers: Workers, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._workers = workers
        self._writer = writer
        self._instances: dict[int, Instance] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Answer until the connection ends."""
        while text := await reader.readline():
            call = asyncio.create_task(self._answer(read(text)))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def close(self) -> None:
        """Wait for the calls to end, then close the instances."""
        if self._calls:
            await asyncio.wait(self._calls)
        await asyncio.gather(*(self._release(number) for number in list(self._instances)), return_exceptions=True)

    async def _answer(self, message: dict[str, Any]) -> None:
        number = message.get("id", 0)
        try:
            text = line({"id": number, "ok": await self._do(message)})
            if len(text) > LINE_BYTES:
                raise EnvironmentFailure(f"its answer has {len(text)} bytes, more than {LINE_BYTES}")
        except Exception as error:  # The server handles all exceptions of an environment.
            text = line(failed(number, error, self._workers.stuck))
        with suppress(ConnectionError):  # `run` gets the end of the connection too.
            self._writer.write(text)
            await self._writer.drain()

    async def _do(self, message: dict[str, Any]) -> Any:
        do = message["do"]
        if do == "health":
            return {"instances": self._host.instances, "stuck": self._workers.stuck}
        number = int(message["instance"])
        if do == "make":
            await self._make(number, message["environment"])
            return None
        if do == "close":
            return await self._release(number)
        instance = self._instances.get(number)
        if instance is None:
            raise EnvironmentFailure(f"instance {number} does not exist")
        if do == "reset":
            return reset_message(await instance.reset(message["task"], message["seed"]))
        if do == "step":
            return transition_message(await instance.step(message["text"]))
        if do == "oracle":
            return await instance.oracle()
        if do == "random":
            return await instance.random(message["seed"])
        raise EnvironmentFailure(f"unknown request {do!r}")

    async def _make(self, number: int, name: str) -> None:
        spec = await self._workers.call(lambda: environment_spec(name), MAKE_LIMIT_S)
        self._instances[number] = await open_instance(spec, self._workers)
        self._host.instances += 1

    async def _release(self, number: int) -> None:
        instance = self._instances.pop(number, None)
        if instance is not None:
            self._host.instances -= 1
            await instance.close()
