"""What one caller's large requests and wrong keys cost the others: the worst wait of `/healthz` and of a chat.

    .venv/bin/python benchmarks/one_caller.py [--quick]

The unmodified `python -m server serve` with the scripted engine and a context of 131,072 tokens. While one caller sends
a large request, another asks `/healthz` over and over; then 60 callers send wrong keys while another one chats. Each
figure stands next to the same without the caller.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))

from clients.demo.machine import machine
from tests.support.live import script
from tests.support.process import process

CHAT, MESSAGES, RESPONSES, COMPLETIONS = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/completions"
CONTEXT = 131_072
WRONG_CALLERS = 60
ANSWERS = 100
"""Chats of each measurement."""


def talk(messages: int, content: Any) -> list[dict[str, Any]]:
    """Return a conversation of `messages` equal messages."""
    return [{"role": "user", "content": content}] * messages


def requests() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the large requests by name."""
    parts, hi = [{"type": "text", "text": "x"}], talk(1, "Hi")
    return {
        "500,000 messages": (CHAT, {"messages": talk(500_000, "x")}),
        "10,000 messages": (CHAT, {"messages": talk(10_000, "x")}),
        "10,000 messages with parts": (CHAT, {"messages": talk(10_000, parts)}),
        "10,000 Anthropic messages": (MESSAGES, {"messages": talk(10_000, parts), "max_tokens": 8}),
        "10,000 response items": (RESPONSES, {"input": talk(10_000, "x")}),
        "a message of 15 MB": (CHAT, {"messages": talk(1, "words " * 2_500_000)}),
        "a message of 1 MB": (CHAT, {"messages": talk(1, "words " * 170_000)}),
        "a prompt of 250,000 ids": (COMPLETIONS, {"prompt": [1] * 249_000}),
        "300,000 stop strings": (CHAT, {"messages": hi, "stop": ["x"] * 300_000}),
        "200,000 stop strings": (CHAT, {"messages": hi, "stop": ["x"] * 200_000}),
        "a tool of 15 MB": (
            CHAT,
            {
                "messages": hi,
                "tools": [{"type": "function", "function": {"name": "x", "description": "words " * 2_500_000}}],
            },
        ),
    }


async def worst_wait(http: aiohttp.ClientSession, meanwhile: Awaitable[Any]) -> tuple[float, Any]:
    """Return the worst wait of `/healthz`, in ms, and the result of what happens meanwhile."""
    other, waits = asyncio.ensure_future(meanwhile), []
    while not other.done():
        began = time.perf_counter()
        async with http.get("/healthz") as answer:
            await answer.read()
        waits.append(1000 * (time.perf_counter() - began))
        await asyncio.sleep(0.002)
    return max(waits), await other


async def send(http: aiohttp.ClientSession, path: str, body: bytes) -> int:
    """Send a request; return the status of its answer."""
    async with http.post(path, data=body, headers={"content-type": "application/json"}) as answer:
        await answer.read()
        return answer.status


async def large_requests(url: str, quick: bool) -> dict[str, Any]:
    """Measure each large request."""
    found: dict[str, Any] = {}
    async with aiohttp.ClientSession(url) as asking, aiohttp.ClientSession(url) as sending:
        idle, _ = await worst_wait(asking, asyncio.sleep(2 if quick else 5))
        print(f"{'idle':30} worst /healthz {idle:7.1f} ms")
        found["idle"] = {"worst_ms": idle}
        for name, (path, body) in requests().items():
            raw = json.dumps({"model": "policy", **body}).encode()
            runs = [await worst_wait(asking, send(sending, path, raw)) for _ in range(1 if quick else 3)]
            worst, status = statistics.median(wait for wait, _ in runs), runs[-1][1]
            print(f"{name:30} worst /healthz {worst:7.1f} ms  ({worst / idle:5.1f} x idle), answered {status}")
            found[name] = {"worst_ms": worst, "ratio": worst / idle, "status": status}
    return found


async def chats(http: aiohttp.ClientSession, key: str) -> float:
    """Return the median time of a chat, in ms."""
    waits = []
    for _ in range(ANSWERS):
        began = time.perf_counter()
        body = {"model": "policy", "messages": talk(1, "Hi")}
        async with http.post(CHAT, json=body, headers={"authorization": f"Bearer {key}"}) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
        waits.append(1000 * (time.perf_counter() - began))
    return statistics.median(waits)


async def wrong_keys(url: str, key: str) -> dict[str, Any]:
    """Measure a chat alone, and next to callers with wrong keys."""
    async with aiohttp.ClientSession(url) as http:
        alone = await chats(http, key)
        with subprocess.Popen([sys.executable, __file__, "--guess", url], stdout=subprocess.PIPE) as guessing:
            assert guessing.stdout is not None
            guessing.stdout.readline()
            beside = await chats(http, key)
            guessing.kill()
    print(
        f"a chat: {alone:.1f} ms alone, {beside:.1f} ms next to {WRONG_CALLERS} callers with wrong keys "
        f"({beside / alone:.1f} x)"
    )
    return {"alone_ms": alone, "beside_ms": beside, "ratio": beside / alone}


async def guess(url: str) -> None:
    """Send wrong keys until killed; say when the callers have begun."""
    begun = 0

    async def caller(number: int) -> None:
        nonlocal begun
        async with aiohttp.ClientSession(url) as http:
            for tried in count():
                async with http.get("/v1/models", headers={"authorization": f"Bearer up-{number}-{tried}"}) as answer:
                    await answer.read()
                begun += tried == 0
                if begun == WRONG_CALLERS and not tried:
                    print("guessing", flush=True)

    await asyncio.gather(*map(caller, range(WRONG_CALLERS)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="each request once")
    parser.add_argument("--guess", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.guess:
        asyncio.run(guess(arguments.guess))
        return
    print(machine())
    results: dict[str, Any] = {"machine": machine()}
    flags = ("--engine.kind", "scripted", "--engine.context-tokens", str(CONTEXT))
    measures: list[tuple[str, tuple[str, ...], Callable[[str, Any], Any]]] = [
        ("requests", (), lambda url, _: large_requests(url, arguments.quick)),
        ("wrong_keys", ("--keys", "required"), lambda url, server: wrong_keys(url, admin_key(server))),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, more, measure in measures:
            model = script(Path(folder) / name / "script", "Hello there.")
            with process(Path(folder) / name / "data", model, *flags, *more) as (server, url):
                results[name] = asyncio.run(measure(url, server))
    print(json.dumps(results))


def admin_key(server: Any) -> str:
    """Return the key that the server printed."""
    return str(server.stdout.readline().split()[-1])


if __name__ == "__main__":
    main()
