"""Exported weights load in transformers, peft and vLLM, and answer as the version did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from server.engines.factory import make_engine
from server.engines.protocol import Weights
from server.errors import BadRequest
from server.models.standalone import copy_adapter, copy_model, merge, public_name
from tests.support.engine_bench import OPTIONS, TEXT, gap, logits_of, logprobs_of
from tests.support.tiny_model import make_tiny_model

TALK = [{"role": "user", "content": "Hé <|im_end|> 12"}]


def logprobs(model: torch.nn.Module) -> list[float]:
    """Return the logprobs of the fixed text."""
    with torch.inference_mode():
        return logprobs_of(model(torch.tensor([TEXT])).logits[0, :-1], TEXT)


def same_tokenizer(one: Path, other: Path) -> bool:
    """Return whether both directories render a conversation to the same ids."""
    ids = [
        AutoTokenizer.from_pretrained(path).apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
        for path in (one, other)
    ]
    return bool(ids[0]) and ids[0] == ids[1]


@pytest.fixture
def merged(tiny: dict[str, Weights], tmp_path: Path) -> Path:
    """The tiny adapter, merged into its base."""
    directory = tmp_path / "merged"
    directory.mkdir()
    merge(tiny["base"].path, tiny["adapter"].path, directory)
    return directory


def test_merged_weights_answer_in_transformers_as_base_and_adapter_do(tiny: dict[str, Weights], merged: Path) -> None:
    base = tiny["base"].path
    expected = logprobs_of(logits_of(base, tiny["adapter"], TEXT), TEXT)
    found = logprobs(AutoModelForCausalLM.from_pretrained(merged))
    assert gap(found, expected) < 1e-5 < gap(found, logprobs_of(logits_of(base, tiny["base"], TEXT), TEXT))
    assert same_tokenizer(base, merged)
    assert not (merged / "adapter_config.json").exists()


def test_merged_weights_keep_the_bases_data_type(tiny: dict[str, Weights], tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    (tmp_path / "merged").mkdir()
    merge(base, tiny["adapter"].path, tmp_path / "merged")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").dtype == torch.bfloat16


def test_an_exported_adapter_loads_in_peft_with_the_name_of_its_base(tiny: dict[str, Weights], tmp_path: Path) -> None:
    base = tiny["base"].path
    (tmp_path / "adapter").mkdir()
    copy_adapter(tiny["adapter"].path, base, str(base), tmp_path / "adapter")
    expected = logprobs_of(logits_of(base, tiny["adapter"], TEXT), TEXT)
    assert gap(logprobs(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")), expected) < 1e-5
    assert same_tokenizer(base, tmp_path / "adapter")
    (tmp_path / "named").mkdir()
    copy_adapter(tiny["adapter"].path, base, "Some/Model", tmp_path / "named")
    config = json.loads((tmp_path / "named" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Some/Model"


def test_whole_weights_are_copied_as_files_and_foreign_ones_refused(tiny: dict[str, Weights], tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in tiny["base"].path.iterdir():
        (linked / file.name).symlink_to(file)
    (tmp_path / "copy").mkdir()
    copy_model(linked, tmp_path / "copy")
    assert not any(file.is_symlink() for file in (tmp_path / "copy").iterdir())
    assert gap(logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "copy")), logprobs_of(
        logits_of(tiny["base"].path, tiny["base"], TEXT), TEXT)) < 1e-6  # fmt: skip
    with pytest.raises(BadRequest, match=r"config\.json"):
        copy_model(tiny["full"].path, tmp_path / "copy")
    with pytest.raises(BadRequest, match="adapter_config"):
        merge(tiny["base"].path, tiny["full"].path, tmp_path / "copy")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/h/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899d", "Qwen/Qwen3-0.6B"),
        ("/d/models/smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/d/my-model", None),
    ],
)
def test_a_base_is_named_as_on_the_hub_where_its_directory_says_so(path: str, name: str | None) -> None:
    assert public_name(Path(path)) == name


@pytest.mark.vllm
@pytest.mark.timeout(900)
async def test_vllm_serves_merged_weights_and_an_exported_adapter(
    tiny: dict[str, Weights], merged: Path, tmp_path: Path
) -> None:
    base = tiny["base"].path
    expected = logprobs_of(logits_of(base, tiny["adapter"], TEXT), TEXT)
    exported = Weights(0, "base", merged)
    engine = make_engine("vllm", tmp_path / "one", vllm=OPTIONS)
    await engine.start(exported, exported)
    try:
        assert gap(await engine.score(0, TEXT), expected) < engine.check_tolerance
    finally:
        await engine.close()
    (tmp_path / "adapter").mkdir()
    copy_adapter(tiny["adapter"].path, base, str(base), tmp_path / "adapter")
    engine = make_engine("vllm", tmp_path / "two", vllm=OPTIONS.model_copy(update={"lora": True}))
    await engine.start(tiny["base"], tiny["base"])
    try:
        await engine.load(Weights(1, "adapter", tmp_path / "adapter"))
        assert gap(await engine.score(1, TEXT), expected) < engine.check_tolerance
    finally:
        await engine.close()
