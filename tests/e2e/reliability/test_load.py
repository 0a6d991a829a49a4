"""Many concurrent clients, slow clients, disconnecting clients: all are answered, and each turn is recorded once."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from server.engines.settings import EngineSettings
from tests.support.database import recorded
from tests.support.live import Live, script, serving, settings_for, until
from tests.support.process import process

CLIENTS = 512
ASK = [{"role": "user", "content": "Hi"}]


def raw_stream(url: str, receive_buffer: int | None = None) -> socket.socket:
    """Request a stream over a plain socket."""
    address = urlsplit(url)
    body = json.dumps({"model": "policy", "messages": ASK, "stream": True}).encode()
    connection = socket.socket()
    connection.settimeout(120)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((address.hostname, address.port))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        b"content-type: application/json\r\n" + f"content-length: {len(body)}\r\n\r\n".encode() + body
    )
    return connection


def read_until(connection: socket.socket, mark: bytes, at_once: int = 1) -> bytes:
    """Read until a mark, or the end of the stream."""
    received = bytearray()
    while mark not in received[-len(mark) - at_once :] and (part := connection.recv(at_once)):
        received += part
    return bytes(received)


async def test_512_concurrent_requests_are_answered_and_recorded_once(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Twenty or so tokens.", delay_s=0.02)

    async def ask(api: openai.AsyncOpenAI, number: int) -> tuple[str, str]:
        """Return the turn's id and its text; every other answer is streamed."""
        asked: dict[str, Any] = {"model": "policy", "messages": [{"role": "user", "content": f"Request {number}"}]}
        if number % 2:
            answer = await api.chat.completions.create(**asked)
            return answer.id, answer.choices[0].message.content or ""
        text, finish, identity = "", None, ""
        async for chunk in await api.chat.completions.create(**asked, stream=True):
            text += chunk.choices[0].delta.content or ""
            finish, identity = chunk.choices[0].finish_reason, chunk.id
        assert finish == "stop"
        return identity, text

    with process(tmp_path / "data", model, "--engine.kind", "scripted") as (_, url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=240) as api:
            answers = await asyncio.gather(*(ask(api, number) for number in range(CLIENTS)))
        assert {text for _, text in answers} == {"Twenty or so tokens."}
        turns = recorded(tmp_path / "data")
        assert sorted(f"chatcmpl-{turn['id']}" for turn in turns) == sorted(identity for identity, _ in answers)
        assert {json.loads(turn["messages"])[0]["content"] for turn in turns} == {
            f"Request {number}" for number in range(CLIENTS)
        }
        assert all(turn["trainable"] for turn in turns)


def test_slow_and_stalled_readers_delay_no_other_client(tmp_path: Path) -> None:
    long = "A long answer. " * 1000
    model = script(tmp_path / "script", long)
    engine = EngineSettings(kind="scripted", context_tokens=len(long) + 1000)
    with serving(settings_for(tmp_path / "data", model=str(model), engine=engine)) as live:
        slow = [raw_stream(live.url, receive_buffer=4096) for _ in range(4)]
        begun = [read_until(reader, b'"content": "A"') for reader in slow]  # Byte by byte, and then not at all.
        short = [live.openai().chat.completions.create(model="policy", messages=ASK, max_tokens=5) for _ in range(20)]
        assert {answer.choices[0].message.content for answer in short} == {"A lon"}
        until(lambda: len(recorded(tmp_path / "data")) == 24, "answers that nobody has read yet were not recorded")
        for reader, head in zip(slow, begun, strict=True):
            stream = head + read_until(reader, b"data: [DONE]", at_once=65536)
            reader.close()
            events = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: {")]
            assert "".join(e["choices"][0]["delta"].get("content", "") for e in events) == long
            assert len(stream) > 3_000_000, "the kernel's buffers held the whole stream: no reader was slow"
        assert all(turn["trainable"] for turn in recorded(tmp_path / "data"))


def test_many_disconnected_clients_leave_marked_turns_and_a_free_engine(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "word " * 2000, delay_s=0.02)
    engine = EngineSettings(kind="scripted", context_tokens=20_000)
    with serving(settings_for(tmp_path / "data", model=str(model), engine=engine)) as live:
        leaving = [raw_stream(live.url) for _ in range(128)]
        for client in leaving:
            read_until(client, b'"content": "w"')
        for number, client in enumerate(leaving):
            if number % 2:  # Half of the connections are reset, half are closed.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        until(lambda: len(recorded(tmp_path / "data")) == len(leaving), "turns of clients that left were not recorded")
        turns = recorded(tmp_path / "data")
        assert {turn["untrainable_reason"] for turn in turns} == {"disconnected"}
        assert all(0 < turn["completion_tokens"] < 10_000 for turn in turns), (
            "the engine kept sampling without a reader"
        )
        assert says(live) == "word "


def says(live: Live) -> str | None:
    """Return the server's answer to a short request."""
    answer = live.openai().chat.completions.create(model="policy", messages=ASK, max_tokens=5)
    return answer.choices[0].message.content
