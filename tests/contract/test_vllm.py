"""vLLM alone: a vLLM at a URL, the reason of a failed start, and no processes left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clients.demo.server_process import free_port
from server.engines.factory import make_engine
from server.engines.protocol import SamplingParams, Weights
from server.engines.vllm.address import Address
from server.engines.vllm.channel import TokenChannel
from server.engines.vllm.command import BASE_MODEL
from server.engines.vllm.frames import Chunk
from server.engines.vllm.http import VllmHttp
from server.engines.vllm.process import VllmProcess, answers
from server.errors import BadRequest, EngineError, NotFound
from tests.support.engine_bench import OPTIONS, TEXT, children, gap, logits_of, logprobs_of


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_a_vllm_at_a_url_is_used_swapped_and_left_running(tiny: dict[str, Weights], tmp_path: Path) -> None:
    base, full = tiny["base"], tiny["full"]
    expected = logprobs_of(logits_of(base.path, full, TEXT), TEXT)
    process = VllmProcess(OPTIONS.model_copy(update={"port": free_port()}), base.path, tmp_path, print)
    await process.start()
    try:
        for _ in range(2):  # The second engine finds the weights of the first one.
            engine = make_engine("vllm", tmp_path, vllm=OPTIONS.model_copy(update={"url": process.address.url}))
            await engine.start(base, base)
            assert engine.versions == {0}
            assert gap(await engine.score(0, TEXT), expected) > 0.3
            await engine.load(full)
            assert gap(await engine.score(1, TEXT), expected) < engine.check_tolerance
            for whole in (False, True):
                params = SamplingParams(max_tokens=6, temperature=0, top_logprobs=2, extra={"ignore_eos": True})
                pieces = [piece async for piece in engine.generate(1, TEXT, params, whole=whole)]
                ids = [token for piece in pieces for token in piece.token_ids]
                logprobs = [one for piece in pieces for one in piece.logprobs]
                tops = [top for piece in pieces for top in piece.top_logprobs or ()]
                greedy = logprobs_of(logits_of(base.path, full, TEXT + ids), TEXT + ids)[-6:]
                assert len(ids) == len(tops) == 6 and gap(logprobs, greedy) < engine.check_tolerance
                assert all(max(top, key=top.__getitem__) == token for token, top in zip(ids, tops, strict=True))
                assert pieces[-1].finish_reason == "length" and {piece.version for piece in pieces} == {1}
            await engine.close()
        assert await answers(process.address)
        await _the_token_channel_says_what_vllms_route_says(process.address)
    finally:
        await process.stop()


async def _the_token_channel_says_what_vllms_route_says(address: Address) -> None:
    http, channel = VllmHttp(lambda: None), TokenChannel(lambda: None, lambda: None)
    http.open(address)
    await channel.open(address)
    try:
        for whole in (False, True):
            sampling = {"max_tokens": 8, "seed": 5, "logprobs": 3, "logit_bias": {TEXT[0]: 1.5}, "ignore_eos": True}
            for wrong in ({"temperature": -1.0}, {"max_tokens": "many"}, {"logprobs": 10**6}, {"n": 0}):
                for chunks in (http.chunks, channel.chunks):
                    with pytest.raises(BadRequest):
                        await _joined(chunks(BASE_MODEL, TEXT, sampling | wrong, whole))
            for chunks in (http.chunks, channel.chunks):
                with pytest.raises(NotFound):
                    await _joined(chunks("another", TEXT, sampling, whole))
                with pytest.raises(BadRequest):
                    await _joined(chunks(BASE_MODEL, TEXT * 1000, sampling, whole))
            expected = await _joined(http.chunks(BASE_MODEL, TEXT, sampling, whole))
            assert await _joined(channel.chunks(BASE_MODEL, TEXT, sampling, whole)) == expected
            assert len(expected[0]) == len(expected[1]) == len(expected[2]) == 8 and expected[3:] == (
                "length",
                [("1", 0, 8)],
            )
    finally:
        await channel.close()
        await http.close()


async def _joined(answer: AsyncGenerator[list[Chunk], None]) -> tuple[Any, ...]:
    chunks = [chunk async for arrived in answer for chunk in arrived]
    ids = [token for chunk in chunks for token in chunk.token_ids]
    logprobs = [logprob for chunk in chunks for logprob in chunk.logprobs]
    alternatives = [top for chunk in chunks for top in chunk.alternatives or ()]
    return ids, logprobs, alternatives, chunks[-1].finish_reason, chunks[-1].versions


@pytest.mark.vllm
async def test_a_failed_start_reports_the_reason(tiny: dict[str, Weights], tmp_path: Path) -> None:
    others = children("vllm")
    engine = make_engine("vllm", tmp_path, vllm=OPTIONS.model_copy(update={"max_model_len": 2**20}))
    with pytest.raises(EngineError, match="max_model_len"):
        await engine.start(tiny["base"], tiny["base"])
    assert children("vllm") == others


async def test_a_url_where_nothing_answers_fails_after_the_limit(tiny: dict[str, Weights], tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        engine = make_engine("vllm", tmp_path, vllm=OPTIONS.model_copy(update={"url": url, "start_timeout_s": 0.1}))
        with pytest.raises(EngineError, match=f"nothing answers at {url}"):
            await engine.start(tiny["base"], tiny["base"])


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """A stand-in for the server, which runs the supervisor over a command that has a child process."""
    program_path = Path(__file__).parents[2] / "server" / "child_process.py"
    command = ["sh", "-c", "sleep 1000 & sleep 1000"]
    program = (
        f"import os, subprocess, sys\nsubprocess.Popen([sys.executable, '-I', {str(program_path)!r}, str(os.getpid()), "
        f"*{command!r}], start_new_session=True).wait()"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as server:
        process = psutil.Process(server.pid)
        while sum(p.name() == "sleep" for p in process.children(recursive=True)) < 2:
            time.sleep(0.05)
        yield server, next(p for p in process.children() if "child_process.py" in " ".join(p.cmdline()))
        server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="process groups of Linux")
@pytest.mark.parametrize("event", ["server killed", "supervisor stopped", "command killed"])
def test_no_process_of_vllm_outlives_its_server(
    event: str, supervised: tuple[subprocess.Popen[bytes], psutil.Process]
) -> None:
    server, supervisor = supervised
    processes = [supervisor, *supervisor.children(recursive=True)]
    assert len(processes) == 4
    if event == "server killed":
        server.kill()
    elif event == "supervisor stopped":
        supervisor.terminate()
    else:
        processes[1].kill()
    assert not psutil.wait_procs(processes, timeout=5)[1]
