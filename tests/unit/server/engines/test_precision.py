"""Which precision engine and learner compute in, for every processor, file type and setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from server.engines import precision
from server.engines.gpus import read_capabilities
from server.engines.options import VllmOptions
from server.engines.precision import Choice, multiplies_bfloat16, on_cpu, on_gpu, stored_precision
from server.engines.vllm.command import chosen_precision
from server.errors import EngineError
from tests.support.tiny_model import make_tiny_model

SKYLAKE = "processor\t: 0\nflags\t\t: fpu vme avx2 avx512f avx512bw avx512_vnni\n"
SAPPHIRE = "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\nbugs\t\t: swapgs\n"
ZEN4 = "flags\t\t: fpu avx2 avx512f avx512_bf16\n"
GRAVITON2 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimddp\n"
GRAVITON3 = "processor\t: 0\nFeatures\t: fp asimd sve asimdfhm i8mm bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "has"),
    [
        (SAPPHIRE, True),
        (ZEN4, True),
        (GRAVITON3, True),
        (SKYLAKE, False),
        (GRAVITON2, False),
        ("", False),
        ("flags : avx512_bf16x\nmodel name : bf16\n", False),
        (SAPPHIRE + SKYLAKE, False),
    ],
)
def test_bfloat16_instructions_are_read_from_the_flags_of_every_core(cpuinfo: str, has: bool) -> None:
    assert multiplies_bfloat16(cpuinfo) is has


@pytest.mark.parametrize(
    ("setting", "stored", "cpuinfo", "expected"),
    [
        ("auto", "bfloat16", SAPPHIRE, "bfloat16"),
        ("auto", "bfloat16", SKYLAKE, "float32"),
        ("auto", "bfloat16", "", "float32"),
        ("auto", "float16", SAPPHIRE, "float32"),
        ("auto", "float32", SAPPHIRE, "float32"),
        ("bfloat16", "bfloat16", SKYLAKE, "bfloat16"),
        ("float32", "bfloat16", SAPPHIRE, "float32"),
    ],
)
def test_a_cpu_without_bfloat16_instructions_computes_in_float32_unless_the_setting_says_otherwise(
    setting: str, stored: precision.Precision, cpuinfo: str, expected: str
) -> None:
    assert on_cpu(setting, stored, cpuinfo).precision == expected


def test_a_precision_that_differs_from_the_files_is_explained_in_one_line() -> None:
    said = on_cpu("auto", "bfloat16", SKYLAKE).message
    assert said == (
        "engine and learner compute in float32, since this CPU has no bfloat16 instructions (engine.dtype overrides "
        "this)"
    )
    assert not on_cpu("auto", "bfloat16", SAPPHIRE).message and not on_cpu("float32", "bfloat16", SKYLAKE).message


def test_a_gpu_without_bfloat16_arithmetic_computes_in_float32_or_refuses_bfloat16() -> None:
    assert on_gpu("auto", "bfloat16", (8, 0)) == on_gpu("auto", "bfloat16", None) == Choice("bfloat16")
    assert on_gpu("auto", "bfloat16", (7, 5)).precision == "float32"
    assert on_gpu("auto", "float16", (7, 5)) == Choice("float16")
    with pytest.raises(EngineError, match=r"compute capability 7\.0.*set it to float32"):
        on_gpu("bfloat16", "bfloat16", (7, 0))


def test_compute_capabilities_are_read_from_the_drivers_listing() -> None:
    assert read_capabilities("0, 7.5\n1, 12.0\n2, [N/A]\nfailed\n") == {0: (7, 5), 1: (12, 0)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_stored_precision_is_declared_or_that_of_the_largest_tensor(tmp_path: Path, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    model = make_tiny_model(tmp_path / "model", dtype=dtype)
    assert stored_precision(model) == name
    described = json.loads((model / "config.json").read_text())
    plain = {key: value for key, value in described.items() if key not in ("dtype", "torch_dtype")}
    for config in (plain, {**plain, "torch_dtype": name}, {**plain, "text_config": {"dtype": name}}):
        (model / "config.json").write_text(json.dumps(config))
        assert stored_precision(model) == name


def test_vllm_starts_in_the_precision_of_the_cpu_and_of_its_own_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_model(tmp_path / "model", dtype=torch.bfloat16)
    monkeypatch.setattr("server.engines.vllm.command.is_cpu_build", lambda: True)
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    precision.CPUINFO.write_text(SKYLAKE)
    assert chosen_precision(VllmOptions(), model).precision == "float32"
    precision.CPUINFO.write_text(SAPPHIRE)
    assert chosen_precision(VllmOptions(), model).precision == "bfloat16"
    for arguments in (("--dtype", "float"), ("--seed", "1", "--dtype=float32")):
        assert chosen_precision(VllmOptions(extra_args=arguments), model).precision == "float32"
