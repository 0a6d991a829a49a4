"""vLLM is killed while it loads a version: what it served before is served again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.errors import EngineError
from server.policy.engine import Weights
from tests.engine_bench import children, own_vllm


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_vllm_killed_in_the_middle_of_a_load_comes_back_with_what_it_served(
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
