"""Bad input is refused before any weight changes, with one line that says what to do."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from learner.checks import BadBatch, BadInput
from learner.loop import do_next_run
from learner.model import fit
from learner.model.fit import BadModel, TooLittleMemory, memory_advice
from learner.model.load import load_policy
from learner.publish import write_version
from learner.step import Trainer
from tests.support.tiny_model import make_tiny_model
from tests.unit.learner.test_learner_loop import set_up
from tests.unit.learner.test_learner_samples import random_samples, tiny_policy, unguarded
from upturn.wire import RunConfig

CPU = torch.device("cpu")
BAD_BATCHES = {
    "lengths": (lambda s: {"loss_mask": s.loss_mask[:-1]}, BadBatch, "differ in length: .*erase the episode"),
    "nan reward": (lambda s: {"reward": math.nan}, BadBatch, "reward of episode .* is nan: correct it"),
    "infinite reward": (lambda s: {"reward": math.inf}, BadBatch, "reward of episode .* is inf: correct it"),
    "foreign token": (
        lambda s: {"token_ids": [*s.token_ids[:-1], 70_000]},
        BadBatch,
        "token ids .* to 70000, .* give both the same model",
    ),
    "temperature": (lambda s: {"temperatures": [0.0] * len(s.token_ids)}, BadBatch, "temperature above 0"),
    "first token": (lambda s: {"loss_mask": [1] * len(s.token_ids)}, BadBatch, "nothing predicts it"),
    "no group": (lambda s: {"group": None}, BadInput, "name a group .* or use reinforce_pp"),
}


@pytest.mark.parametrize("name", list(BAD_BATCHES))
def test_a_malformed_batch_is_refused_and_no_weight_changes(tmp_path, name):
    change, kind, says = BAD_BATCHES[name]
    policy = tiny_policy(tmp_path)
    trainer, before = Trainer(policy, unguarded()), policy.snapshot()
    samples = [s.model_copy(update=change(s)) for s in random_samples()]
    with pytest.raises(kind, match=says) as refused:
        trainer.step(samples, 0)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(before[n], p) for n, p in policy.trainable().items())
    assert all(p.grad is None for p in policy.trainable().values())


def test_a_directory_without_a_complete_model_is_refused(tmp_path):
    config = RunConfig(steps=1)
    with pytest.raises(BadModel, match=r"no config\.json"):
        load_policy(tmp_path, None, config, CPU)
    model = make_tiny_model(tmp_path / "model")
    (model / "config.json").rename(model / "away")
    (model / "config.json").write_text("{")
    with pytest.raises(BadModel, match=r"not JSON .* copy the model again"):
        load_policy(model, None, config, CPU)
    shutil.move(model / "away", model / "config.json")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BadModel, match=r"is broken .* copy the model again"):
        load_policy(model, None, config, CPU)
    weights.unlink()
    with pytest.raises(BadModel, match="has no weights"):
        load_policy(model, None, config, CPU)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    model = make_tiny_model(tmp_path / "model")
    monkeypatch.setattr(fit, "free_bytes", lambda device: 1_000_000)
    with pytest.raises(TooLittleMemory, match=r"needs .* GiB .* are free: train an adapter"):
        load_policy(model, None, RunConfig(steps=1), CPU)
    assert load_policy(model, None, RunConfig(steps=1, kind="adapter"), CPU).is_adapter


def test_the_free_memory_of_this_machine_is_known():
    free = fit.free_bytes(CPU)
    assert free is not None
    assert free > 100 * 2**20


MEMINFO = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 500 kB\n"
GROUP = {"memory.max": "204800", "memory.current": "153600", "memory.stat": "anon 7\ninactive_file 51200\n"}


@pytest.mark.parametrize(
    ("meminfo", "group", "free"),
    [
        (MEMINFO, {}, 512_000),
        (MEMINFO, GROUP, 102_400),
        (MEMINFO, GROUP | {"memory.max": "max\n"}, 512_000),
        (MEMINFO, GROUP | {"memory.max": "9000000"}, 512_000),
        (MEMINFO, GROUP | {"memory.current": "204800"}, 51_200),
        ("MemTotal: 1000 kB\n", GROUP, None),
        (None, GROUP, None),
    ],
    ids=["machine", "group", "no limit", "larger limit", "full", "no figure", "no machine"],
)
def test_the_free_memory_is_the_least_of_the_machines_and_its_groups(tmp_path, monkeypatch, meminfo, group, free):
    files = {f"/sys/fs/cgroup/{name}": text for name, text in group.items()}
    files |= {} if meminfo is None else {"/proc/meminfo": meminfo}

    class Machine(type(tmp_path)):
        def read_text(self):
            if str(self) not in files:
                raise FileNotFoundError(str(self))
            return files[str(self)]

    monkeypatch.setattr(fit, "Path", Machine)
    assert fit.free_bytes(CPU) == free


@pytest.mark.parametrize(("share", "free"), [(1.0, 300), (0.5, 300), (0.25, 250), (0.0, 0)])
def test_the_free_memory_of_a_gpu_is_at_most_the_learners_share_of_it(monkeypatch, share, free):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (300, 1000))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: share)
    assert fit.free_bytes(torch.device("cuda")) == free


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        ({"algorithm": "grpo"}, 400 * 4),
        ({"algorithm": "grpo", "kl_coef": 0.1}, 400 * 5),
        ({"algorithm": "dpo"}, 400 * 5),
        ({"algorithm": "grpo", "kind": "adapter", "kl_coef": 0.1}, 7),
    ],
)
def test_training_needs_four_copies_of_the_weights_and_one_more_with_a_reference(config, needed):
    assert fit.needed_bytes(100, 7, RunConfig(steps=1, **config)) == needed


def test_adapters_of_one_seed_begin_equal_and_adapters_of_two_seeds_differ(tmp_path):
    model = make_tiny_model(tmp_path / "model")

    def begun(seed):
        policy = load_policy(model, None, RunConfig(steps=1, kind="adapter", seed=seed), CPU)
        return torch.cat([p.detach().flatten() for name, p in sorted(policy.trainable().items()) if "lora_A" in name])

    first = begun(7)
    torch.rand(3)
    assert torch.equal(first, begun(7)) and not torch.equal(first, begun(8))


def test_an_out_of_memory_error_names_the_option_to_lower():
    with pytest.raises(TooLittleMemory, match="--max-row-tokens below 4096"), memory_advice(4096):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(TooLittleMemory, match="--max-row-tokens"), memory_advice(4096):
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="another"), memory_advice(4096):
        raise RuntimeError("another")


def test_a_live_run_with_only_single_episodes_fails_at_its_first_step_with_that_reason(tmp_path):
    server, settings = set_up(tmp_path)
    server.teach_nothing_at, real = {0}, server.lease

    def alone(body):
        real(body)
        view = server.leased[body["step"]].model_copy(
            update={"groups": 0, "groups_incomplete": 12, "live_ungrouped": 12}
        )
        server.leased[body["step"]] = view
        return server.answer(view)

    server.lease = alone
    with pytest.raises(BadInput, match="each of the 12 recorded episodes is alone in its group: name a group"):
        do_next_run(server.client(), settings)
    assert server.run.state == "failed"
    assert server.run.reason.startswith("grpo compares the episodes of a group")
    assert len(server.versions) == 1


def test_a_version_that_could_not_be_written_has_no_manifest(tmp_path, monkeypatch):
    policy = tiny_policy(tmp_path)
    monkeypatch.setattr("learner.publish.probe_of", lambda policy: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_version(policy, tmp_path / "versions", 0, {})
    assert list((tmp_path / "versions").rglob("manifest.json")) == []
