"""Engine and learner compute in one precision: every pair of a base's and an engine's precision passes the check."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learner.model.load import load_policy
from learner.publish import write_version
from learner.step import Trainer
from server.engines.factory import make_engine
from server.engines.options import LocalOptions
from server.engines.protocol import Weights
from server.versions.check import check_version
from tests.support.engine_bench import OPTIONS
from tests.support.tiny_model import make_tiny_model
from tests.unit.learner.test_learner_samples import random_samples, unguarded
from upturn.wire import OptimizerConfig

LIMITS = {"float32": 2e-5, "bfloat16": 0.03}
"""Mean difference in nats; a learner in another precision than the engine differs by more (0.0145 was measured)."""
PAIRS = [(base, engine) for base in ("bfloat16", "float32", "float16") for engine in ("bfloat16", "float32")]


@pytest.mark.parametrize("kind", ["full", "adapter"])
@pytest.mark.parametrize(("base", "precision"), PAIRS)
async def test_a_published_version_passes_the_local_engines_check(
    tmp_path: Path, base: str, precision: str, kind: str
) -> None:
    await published(tmp_path, "local", base, precision, kind)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("base", "precision", "kind"), [("bfloat16", "float32", "full"), ("float32", "bfloat16", "full")]
)
async def test_a_published_version_passes_vllms_check(tmp_path: Path, base: str, precision: str, kind: str) -> None:
    await published(tmp_path, "vllm", base, precision, kind)


async def published(directory: Path, engine_kind: str, base: str, precision: str, kind: str) -> None:
    """Train one step on what an engine of this precision serves, publish it, and check it there."""
    model = make_tiny_model(directory / "base", dtype=getattr(torch, base))
    config = unguarded(steps=1, kind=kind, lora_rank=4, optimizer=OptimizerConfig(lr=1e-3))
    engine = make_engine(
        engine_kind,  # type: ignore[arg-type]
        directory,
        vllm=OPTIONS.model_copy(update={"dtype": precision, "lora": kind == "adapter"}),
        local=LocalOptions(dtype=precision, threads=1),  # type: ignore[arg-type]
    )
    start = Weights(0, "base", model)
    await engine.start(start, start)
    try:
        assert engine.precision == precision
        policy = load_policy(model, None, config, torch.device("cpu"), engine.precision)
        Trainer(policy, config).step(random_samples(), 0)
        version = write_version(policy, directory / "versions", 0, {})
        await engine.load(Weights(1, kind, version.directory))  # type: ignore[arg-type]
        check = await check_version(engine, 1, version.probe)
        assert check.mean < LIMITS[precision]
    finally:
        await engine.close()
    (file,) = version.directory.glob("*.safetensors")
    narrow = base == precision == "bfloat16"
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16 if narrow else torch.float32}
    if kind == "full":
        again = load_policy(version.directory, None, config, torch.device("cpu"), precision)
        assert all(torch.equal(p, policy.rounded()[name].float()) for name, p in again.trainable().items())
