"""vLLM alone: a vLLM at a URL, the reason of a failed start, and no processes left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from clients.demo.server_process import free_port
from server.engines.factory import make_engine
from server.engines.protocol import Weights
from server.engines.vllm.process import VllmProcess, answers
from server.errors import EngineError
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
            await engine.close()
        assert await answers(process.address)
    finally:
        await process.stop()


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
