"""A bare reverse proxy in aiohttp, the least that a server between agent and engine costs.

    python benchmarks/support/pass_through.py URL

It passes requests and answers on as they arrive and prints its own URL. Nothing is read, checked, or recorded.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from aiohttp import web


@contextmanager
def running(url: str) -> Iterator[tuple[int, str]]:
    """Run the proxy in front of a URL; yield its process id and its own URL."""
    with subprocess.Popen([sys.executable, __file__, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.kill()


async def serve(upstream: str) -> None:
    """Serve until killed."""
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)

    async def passed_on(request: web.Request) -> web.StreamResponse:
        sent = {"content-type": "application/json", "authorization": request.headers.get("authorization", "")}
        async with session.request(
            request.method, upstream + request.path_qs, data=await request.read(), headers=sent
        ) as answer:
            kind = {"content-type": answer.headers["content-type"]}
            if "content-length" in answer.headers:
                return web.Response(status=answer.status, headers=kind, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=kind)
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", passed_on)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
