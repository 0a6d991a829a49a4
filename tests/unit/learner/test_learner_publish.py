"""A published version holds the trained weights, and its manifest and probe prove it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner.checks import BadInput
from learner.model.load import load_policy
from learner.parallel.first import FirstProcessClient
from learner.publish import write_version
from learner.step import Trainer
from learner.versions import RunVersions
from tests.support.tiny_model import make_tiny_model
from tests.unit.learner.test_learner_loop import set_up
from tests.unit.learner.test_learner_samples import random_samples, tiny_policy, unguarded
from upturn.manifest import verify_manifest
from upturn.wire import OptimizerConfig

CPU = torch.device("cpu")


def trained(directory, config, dtype=torch.float32):
    base = make_tiny_model(directory / "base", dtype=dtype)
    policy = load_policy(base, None, config, CPU)
    Trainer(policy, config).step(random_samples(), 0)
    return policy


def served_logprobs(model, probe):
    ids = torch.tensor([probe.token_ids])
    with torch.no_grad():
        return model(input_ids=ids).logits[0, :-1].float().log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]


FULL = unguarded(steps=1, optimizer=OptimizerConfig(lr=1e-3))
ADAPTER = unguarded(steps=1, kind="adapter", lora_rank=4, optimizer=OptimizerConfig(lr=1e-2))


def test_full_weights_have_an_explicit_lm_head_and_load_with_tokenizer_as_the_same_tied_model(tmp_path):
    policy = trained(tmp_path, FULL)
    version = write_version(policy, tmp_path / "versions", 3, {"run_id": "r"})
    stored = load_file(version.directory / "model.safetensors")
    assert torch.equal(stored["lm_head.weight"], stored["model.embed_tokens.weight"])
    model = AutoModelForCausalLM.from_pretrained(version.directory)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(
        served_logprobs(model, version.probe), torch.tensor(version.probe.logprobs), atol=1e-5, rtol=0
    )
    tokenizer = AutoTokenizer.from_pretrained(version.directory)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(policy.directory).chat_template
    again = load_policy(version.directory, None, FULL, CPU)
    assert set(again.trainable()) == set(policy.trainable())


def test_the_manifest_verifies_and_names_the_origin_of_the_version(tmp_path):
    policy = trained(tmp_path, FULL)
    version = write_version(policy, tmp_path / "versions", 3, {"run_id": "r", "horizon": 10})
    manifest = verify_manifest(version.directory, version.manifest_sha256)
    facts = {name: manifest[name] for name in ("kind", "base", "run_id", "horizon", "step", "dtype")}
    assert facts == {
        "kind": "full", "base": str(policy.directory), "run_id": "r", "horizon": 10, "step": 3, "dtype": "float32",
    }  # fmt: skip
    assert version.directory.name == "step-000003"


def test_the_probe_uses_the_rounded_weights_and_training_keeps_the_exact_ones(tmp_path):
    policy = trained(tmp_path, FULL, torch.bfloat16)
    assert policy.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in policy.trainable().values())
    before = policy.snapshot()
    version = write_version(policy, tmp_path / "versions", 0, {})
    assert all(torch.equal(before[name], p) for name, p in policy.trainable().items())
    assert {t.dtype for t in load_file(version.directory / "model.safetensors").values()} == {torch.bfloat16}
    served = AutoModelForCausalLM.from_pretrained(version.directory, dtype=torch.bfloat16)
    gap = (served_logprobs(served, version.probe) - torch.tensor(version.probe.logprobs)).abs()
    assert gap.mean() < 0.05  # noise of bfloat16
    exact = load_policy(version.directory, None, FULL, CPU)
    own = torch.tensor(write_version(exact, tmp_path / "again", 0, {}).probe.logprobs)
    assert torch.equal(own, torch.tensor(version.probe.logprobs))


def test_the_probe_is_the_same_text_for_every_version_and_longer_than_a_block(tmp_path):
    one, two = tiny_policy(tmp_path, seed=0), tiny_policy(tmp_path, seed=1)
    first, second = (write_version(p, tmp_path / "versions", i, {}).probe for i, p in enumerate((one, two)))
    assert first.token_ids == second.token_ids
    assert len(first.token_ids) == 160 == len(first.logprobs) + 1
    gap = torch.tensor(first.logprobs) - torch.tensor(second.logprobs)
    assert gap.abs().mean() > 0.5  # a probe tells two models apart


def test_without_a_tokenizer_the_probe_is_a_fixed_sequence_within_the_vocabulary(tmp_path):
    policy = tiny_policy(tmp_path)
    (policy.directory / "tokenizer.json").unlink()
    ids = write_version(policy, tmp_path / "versions", 0, {}).probe.token_ids
    assert len(ids) == 160
    assert max(ids) < 259


def test_an_adapter_is_published_in_the_format_of_peft_and_matches_its_probe(tmp_path):
    policy = trained(tmp_path, ADAPTER)
    version = write_version(policy, tmp_path / "versions", 0, {})
    assert {p.name for p in version.directory.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "manifest.json",
    }  # fmt: skip
    config = json.loads((version.directory / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["inference_mode"]) == (4, 32, True)
    base = AutoModelForCausalLM.from_pretrained(policy.directory)
    plain = served_logprobs(base, version.probe)
    served = served_logprobs(PeftModel.from_pretrained(base, version.directory), version.probe)
    torch.testing.assert_close(served, torch.tensor(version.probe.logprobs), atol=1e-5, rtol=0)
    assert (plain - served).abs().max() > 1e-3
    assert verify_manifest(version.directory, version.manifest_sha256)["kind"] == "adapter"


def test_a_run_continues_a_published_adapter_or_merges_it_into_full_weights(tmp_path):
    policy = trained(tmp_path, ADAPTER)
    version = write_version(policy, tmp_path / "versions", 0, {})
    for config in (ADAPTER, FULL):
        again = load_policy(policy.directory, version.directory, config, CPU)
        assert again.is_adapter == (config.kind == "adapter")
        probe = write_version(again, tmp_path / (config.kind or "full"), 0, {}).probe
        torch.testing.assert_close(
            torch.tensor(probe.logprobs), torch.tensor(version.probe.logprobs), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("config", [FULL, ADAPTER], ids=["full", "adapter"])
def test_published_weights_can_be_loaded_into_a_policy(tmp_path, config):
    policy = trained(tmp_path, config)
    version = write_version(policy, tmp_path / "versions", 0, {})
    fresh = load_policy(policy.directory, None, config, CPU)
    fresh.load_published(version.directory)
    assert all(torch.equal(p, policy.trainable()[name]) for name, p in fresh.trainable().items())


def test_nonfinite_weights_are_refused_and_nothing_is_written(tmp_path):
    policy = tiny_policy(tmp_path)
    with torch.no_grad():
        next(iter(policy.trainable().values()))[0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"model\.embed_tokens\.weight"):
        write_version(policy, tmp_path / "versions", 0, {})
    assert not (tmp_path / "versions").exists()


def test_a_repeated_step_never_overwrites_a_version(tmp_path):
    policy = tiny_policy(tmp_path)
    names = [write_version(policy, tmp_path / "versions", 7, {}).directory.name for _ in range(3)]
    assert names == ["step-000007", "step-000007-2", "step-000007-3"]


def test_a_learner_computes_in_the_engines_precision_and_its_version_declares_its_own_dtype(tmp_path):
    base = make_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    policy = load_policy(base, None, FULL, CPU, "float32")
    Trainer(policy, FULL).step(random_samples(), 0)
    version = write_version(policy, tmp_path / "versions", 0, {})
    assert json.loads((version.directory / "config.json").read_text())["dtype"] == "float32"
    served = AutoModelForCausalLM.from_pretrained(version.directory, dtype="auto")
    torch.testing.assert_close(
        served_logprobs(served, version.probe), torch.tensor(version.probe.logprobs), atol=1e-5, rtol=0
    )


def test_an_engine_that_computes_in_float16_is_refused_with_advice(tmp_path):
    with pytest.raises(BadInput, match="float16, in which nothing can be trained"):
        load_policy(make_tiny_model(tmp_path / "base"), None, FULL, CPU, "float16")


@pytest.mark.parametrize(("kind", "held"), [("full", torch.float32), ("adapter", torch.bfloat16)])
def test_trained_weights_are_held_in_float32_and_a_base_under_an_adapter_in_the_engines_precision(tmp_path, kind, held):
    config = unguarded(steps=1, kind=kind, lora_rank=4)
    policy = load_policy(make_tiny_model(tmp_path / "base"), None, config, CPU, "bfloat16")
    base = {p.dtype for name, p in policy.model.named_parameters() if "lora_" not in name}
    assert base == {held}
    assert all(p.requires_grad for p in policy.trainable().values())
    assert {p.requires_grad for name, p in policy.model.named_parameters() if "lora_" not in name} == {kind == "full"}


def test_a_published_version_reports_the_seconds_of_its_two_parts(tmp_path, monkeypatch):
    config = unguarded(steps=1)
    server, _ = set_up(tmp_path, config)
    client = FirstProcessClient(server.client())
    versions = RunVersions(server.run, client, "me", tiny_policy(tmp_path, config), tmp_path / "v", client.policies())
    assert versions.newest is None
    readings = iter([100.0, 103.0, 110.0])
    monkeypatch.setattr("learner.versions.time", SimpleNamespace(perf_counter=lambda: next(readings)))
    number, seconds = versions.publish(0, 4)
    assert (number, seconds) == (1, {"write_s": 3.0, "publish_s": 7.0})
    assert versions.newest is not None and versions.newest.parent == tmp_path / "v"
