"""vLLM is killed while it loads a version: what it served before is served again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.errors import EngineError
from server.policy.engine import Weights
from server.policy.engines import make_engine
from tests.contract.test_vllm import servers_but, until_healthy
from tests.engine_bench import OPTIONS, TEXT, children, gap, logits_of, logprobs_of


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_vllm_killed_in_the_middle_of_a_load_comes_back_with_what_it_served(
    tiny: dict[str, Weights], tmp_path: Path
) -> None:
    base, full = tiny["base"], tiny["full"]
    expected = logprobs_of(logits_of(base.path, full, TEXT), TEXT)
    others = children("vllm")
    engine = make_engine("vllm", tmp_path, vllm=OPTIONS)
    await engine.start(base, full)
    try:
        for worker in children("VLLM::Worker"):
            worker.suspend()  # Now the load cannot end before the kill.
        load = asyncio.ensure_future(engine.load(Weights(6, "full", base.path)))
        await asyncio.sleep(0.5)
        for server in servers_but(others):
            server.kill()
        with pytest.raises(EngineError, match="version 6"):
            await load
        await until_healthy(engine)
        assert engine.versions == {1}
        assert gap(await engine.score(1, TEXT), expected) < engine.check_tolerance
    finally:
        await engine.close()
    assert children("vllm") == others
