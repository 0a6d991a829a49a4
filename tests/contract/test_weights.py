"""Weights that would break an engine are refused before it sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from server.engines.protocol import Weights
from server.errors import BadRequest
from server.models import weights
from server.models.weights import validate_adapter, validate_full, with_explicit_lm_head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("none", None),
        ("missing", "model.norm.weight is missing"),
        ("shape", "has shape"),
        ("nan", "not finite"),
        ("extra", "not in the base"),
        ("no LM head", "lm_head.weight is missing"),
        ("different LM head", "differs"),
        ("cut off", "cut off"),
    ],
)
def test_full_weights_that_would_break_an_engine_are_refused(
    change: str, message: str | None, tiny: dict[str, Weights], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {k: v.to(torch.bfloat16) for k, v in load_file(tiny["full"].path / "model.safetensors").items()}
    norm = tensors["model.norm.weight"]
    edits: dict[str, Callable[[], object]] = {
        "missing": lambda: tensors.pop("model.norm.weight"),
        "shape": lambda: tensors.update({"model.norm.weight": norm[:3].clone()}),
        "nan": lambda: norm.__setitem__(5, float("nan")),
        "extra": lambda: tensors.update({"more": norm.clone()}),
        "no LM head": lambda: tensors.pop("lm_head.weight"),
        "different LM head": lambda: tensors["lm_head.weight"].__setitem__((3, 3), 7.0),
    }
    edits.get(change, lambda: None)()
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    if change == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    if message is None:
        validate_full(tmp_path, tiny["base"].path)
        return
    with pytest.raises(BadRequest, match=message) as raised:
        validate_full(tmp_path, tiny["base"].path)
    assert raised.value.code == "bad_weights"


def test_a_base_gets_an_explicit_lm_head_without_copies_of_the_other_tensors(
    tiny: dict[str, Weights], tmp_path: Path
) -> None:
    linked = with_explicit_lm_head(tiny["base"].path, tmp_path / "linked")
    validate_full(linked, tiny["base"].path)
    assert (linked / "model.safetensors").is_symlink()
    assert with_explicit_lm_head(tiny["full"].path, tmp_path / "not") == tiny["full"].path


def test_adapters_are_checked_against_the_base_and_the_rank(tiny: dict[str, Weights], tmp_path: Path) -> None:
    adapter, base = tiny["adapter"].path, tiny["base"].path
    validate_adapter(adapter, base, max_rank=8)
    with pytest.raises(BadRequest, match="rank 8"):
        validate_adapter(adapter, base, max_rank=4)
    with pytest.raises(BadRequest, match="adapter_config"):
        validate_adapter(tmp_path, base)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("at", [0, 3, 4, 9])
def test_a_value_that_is_not_finite_is_found_in_every_chunk(
    dtype: str, value: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import save_file

    monkeypatch.setattr(weights, "_CHUNK_VALUES", 4)
    base, changed = tmp_path / "base", tmp_path / "changed"
    values = torch.tensor([1.0, -1.0, 0.0, 65504.0, -65504.0, 1e-7, 2.0, 3.0, 4.0, 5.0]).to(getattr(torch, dtype))
    for directory in (base, changed):
        directory.mkdir()
        save_file({"lm_head.weight": values, "b.weight": values.clone()}, directory / "model.safetensors")
    validate_full(changed, base)
    broken = values.clone()
    broken[at] = float(value)
    save_file({"lm_head.weight": values, "b.weight": broken}, changed / "model.safetensors")
    with pytest.raises(BadRequest, match=r"b\.weight holds values that are not finite"):
        validate_full(changed, base)
