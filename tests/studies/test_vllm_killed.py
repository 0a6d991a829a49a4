"""vLLM is killed while it answers and while it loads, and gets weights that do not fit: it serves again as before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from server.engines.protocol import SamplingParams, Weights
from server.errors import EngineError
from tests.support.engine_bench import LONG, TEXT, children, own_vllm


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_vllm_killed_during_a_load_restarts_with_the_weights_it_served(
    tiny: dict[str, Weights], tmp_path: Path
) -> None:
    async with own_vllm(tiny, tmp_path) as vllm:
        for worker in children("VLLM::Worker"):
            worker.suspend()  # Now the load cannot end before the kill.
        load = asyncio.ensure_future(vllm.engine.load(Weights(6, "full", tiny["base"].path)))
        await asyncio.sleep(0.5)
        for server in vllm.servers():
            server.kill()
        with pytest.raises(EngineError, match="version 6"):
            await load
        await vllm.until_healthy()
        await vllm.serves()


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_vllm_restarts_with_its_weights_after_a_kill_and_after_a_failed_load(
    tiny: dict[str, Weights], tmp_path: Path
) -> None:
    async with own_vllm(tiny, tmp_path) as vllm:
        engine = vllm.engine
        await vllm.serves()
        servers = vllm.servers()
        for worker in children("VLLM::Worker"):
            worker.suspend()  # Or the tiny model has said everything before the server can be killed.
        answer = asyncio.ensure_future(anext(engine.generate(1, TEXT, SamplingParams(3000, extra=LONG))))
        await asyncio.sleep(0.5)
        for server in servers:
            server.kill()
        with pytest.raises(EngineError) as raised:
            await answer
        assert "retry-after" in raised.value.headers()
        await asyncio.sleep(1.0)
        assert not await engine.healthy()
        with pytest.raises(EngineError):
            await anext(engine.generate(1, TEXT, SamplingParams(3)))
        await vllm.until_healthy()
        await vllm.serves()

        bad = tmp_path / "bad"
        bad.mkdir()
        tensors = load_file(tiny["full"].path / "model.safetensors")
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:10].clone()
        save_file(tensors, bad / "model.safetensors")
        with pytest.raises(EngineError, match="version 5"):
            await engine.load(Weights(5, "full", bad))
        assert not await engine.healthy()
        await vllm.until_healthy()
        await vllm.serves()
