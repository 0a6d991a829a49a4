"""The HTTP connections to vLLM: control routes, and the answers of a vLLM at a URL.

Failures are reported to the engine, which finds out whether vLLM is still alive. Versions and weights are unknown here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import aiohttp

from server.engines.vllm.address import Address
from server.engines.vllm.answer import RESTART_S, chunk_of, error_of
from server.engines.vllm.frames import Chunk
from server.errors import EngineError

CONTROL_TIMEOUT_S = 600.0
KEEP_ALIVE_S = 4.0
"""vLLM closes idle connections after 5 s."""


class VllmHttp:
    """Sends requests to one vLLM at a time.

    Args:
        on_failure: called when a request failed in a way that may mean that vLLM is gone.
    """

    def __init__(self, on_failure: Callable[[], object]) -> None:
        self.address = Address("")
        self._on_failure = on_failure
        self._sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession] | None = None

    def open(self, address: Address) -> None:
        """Prepare connections, inside the event loop that uses them."""
        self.address = address
        kept, single = (
            aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_connect=60), read_bufsize=2**20
            )
            for connector in (
                address.connector(keepalive_timeout=KEEP_ALIVE_S),
                address.connector(force_close=True),
            )
        )
        self._sessions = (kept, single)

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions or ():
            await session.close()

    @property
    def _kept(self) -> aiohttp.ClientSession:
        """The session that keeps connections for the next answers."""
        assert self._sessions is not None, "the engine was not started"
        return self._sessions[0]

    @property
    def _single(self) -> aiohttp.ClientSession:
        """The session with a new connection for each request: vLLM drops kept ones after an error or when idle."""
        assert self._sessions is not None, "the engine was not started"
        return self._sessions[1]

    async def chunks(
        self, model: str, prompt_ids: list[int], sampling: dict[str, Any], whole: bool
    ) -> AsyncGenerator[list[Chunk], None]:
        """Yield the answer, in vLLM's chunks or whole. Closing the iterator closes the connection, and vLLM stops."""
        body = {"model": model, "token_ids": prompt_ids, "sampling_params": sampling, "stream": not whole}
        try:
            async with await self._ask(body) as response:
                if response.status != 200:
                    raise error_of(response.status, await response.text())
                if whole:
                    yield [chunk_of(choice) for choice in json.loads(await response.read())["choices"]]
                    return
                rest = b""
                async for data in response.content.iter_any():
                    *events, rest = (rest + data).split(b"\n\n")
                    chunks: list[Chunk] = []
                    for event in events:
                        if not event.startswith(b"data: {"):
                            continue
                        chunk = json.loads(event[6:])
                        if "error" in chunk:
                            raise error_of(int(chunk["error"]["code"]), chunk["error"]["message"])
                        chunks += [chunk_of(choice) for choice in chunk["choices"]]
                    if chunks:
                        yield chunks
        except (aiohttp.ClientError, OSError, EngineError) as error:
            self._on_failure()
            raise EngineError(f"vLLM failed while answering: {error!r}", retry_after_s=RESTART_S) from error

    async def _ask(self, body: dict[str, Any]) -> aiohttp.ClientResponse:
        """Request an answer; repeat the request if vLLM closed the kept connection at that moment."""
        url = f"{self.address.url}/inference/v1/generate"
        try:
            return await self._kept.post(url, json=body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return await self._single.post(url, json=body)

    async def control(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one request and return its JSON."""
        timeout = aiohttp.ClientTimeout(total=CONTROL_TIMEOUT_S)
        try:
            async with self._single.request(method, self.address.url + path, json=body, timeout=timeout) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._on_failure()
            raise EngineError(f"vLLM does not answer {path}: {error!r}", retry_after_s=RESTART_S) from error
        if response.status != 200:
            raise error_of(response.status, text, path)
        return json.loads(text) if text.startswith(("{", "[")) else text
