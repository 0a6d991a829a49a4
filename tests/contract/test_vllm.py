"""What only vLLM needs: one at a URL, saying why it cannot start, leaving no process behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from server.engines.factory import make_engine
from server.engines.protocol import Weights
from server.engines.vllm_process import VllmProcess, answers
from server.errors import EngineError
from tests.support.engine_bench import OPTIONS, TEXT, children, gap, logits_of, logprobs_of


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_a_vllm_at_a_url_is_used_swapped_and_left_running(tiny: dict[str, Weights], tmp_path: Path) -> None:
    base, full = tiny["base"], tiny["full"]
    expected = logprobs_of(logits_of(base.path, full, TEXT), TEXT)
    process = VllmProcess(OPTIONS, base.path, tmp_path, print)
    url = await process.start()
    try:
        for _ in range(2):  # The second one finds it with the weights that the first one left there.
            engine = make_engine("vllm", tmp_path, vllm=OPTIONS.model_copy(update={"url": url}))
            await engine.start(base, base)
            assert engine.versions == {0}
            assert gap(await engine.score(0, TEXT), expected) > 0.3
            await engine.load(full)
            assert gap(await engine.score(1, TEXT), expected) < engine.check_tolerance
            await engine.close()
        assert await answers(url)
    finally:
        await process.stop()


@pytest.mark.vllm
async def test_a_vllm_that_cannot_start_says_why(tiny: dict[str, Weights], tmp_path: Path) -> None:
    others = children("vllm")
    engine = make_engine("vllm", tmp_path, vllm=OPTIONS.model_copy(update={"max_model_len": 2**20}))
    with pytest.raises(EngineError, match="max_model_len"):
        await engine.start(tiny["base"], tiny["base"])
    assert children("vllm") == others


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """A stand-in server that runs the watcher over a command with a child of its own."""
    watch = Path(__file__).parents[2] / "server" / "child_process.py"
    command = ["sh", "-c", "sleep 1000 & sleep 1000"]
    program = (
        f"import os, subprocess, sys\nsubprocess.Popen([sys.executable, '-I', {str(watch)!r}, str(os.getpid()), "
        f"*{command!r}], start_new_session=True).wait()"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as server:
        process = psutil.Process(server.pid)
        while sum(p.name() == "sleep" for p in process.children(recursive=True)) < 2:
            time.sleep(0.05)
        yield server, next(p for p in process.children() if "child_process.py" in " ".join(p.cmdline()))
        server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="process groups of Linux")
@pytest.mark.parametrize("event", ["server killed", "watcher told to stop", "command killed"])
def test_no_process_of_vllm_outlives_its_server(
    event: str, watched: tuple[subprocess.Popen[bytes], psutil.Process]
) -> None:
    server, watcher = watched
    all_of_them = [watcher, *watcher.children(recursive=True)]
    assert len(all_of_them) == 4
    if event == "server killed":
        server.kill()
    elif event == "watcher told to stop":
        watcher.terminate()
    else:
        all_of_them[1].kill()
    assert not psutil.wait_procs(all_of_them, timeout=5)[1]
