"""A guard stops a run before its model is ruined, and the best version serves again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learner.best import KeptVersion, best_of
from learner.figures import repetition
from learner.guards import Mismatch, RunStopped, check_collapse, check_mismatch
from learner.loop import do_next_run
from learner.packing import trained_positions
from learner.step import Trainer
from tests.unit.learner.test_learner_loop import CONFIG, set_up
from tests.unit.learner.test_learner_samples import random_samples, sample, tiny_policy, unguarded
from tests.unit.learner.test_learner_step import on_policy
from upturn.wire import Guards, RunConfig, RunStep


def steps_of(name, values):
    return [RunStep(step=i, horizon=1, policy_version=i + 1, metrics={name: v}) for i, v in enumerate(values)]


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_batch_from_another_model_stops_the_run_before_any_weight_changes(tmp_path, minibatches):
    config = RunConfig(steps=1, minibatches=minibatches)
    policy = tiny_policy(tmp_path, config)
    trainer, before = Trainer(policy, config), policy.snapshot()
    with pytest.raises(RunStopped, match=r"differ by .* nats per token .* this step changed no weight"):
        trainer.step(random_samples(), 0)
    assert all(torch.equal(before[name], p) for name, p in policy.trainable().items())
    assert trainer.step(on_policy(policy, random_samples()), 0).trained  # the refused gradient is gone
    fresh = tiny_policy(tmp_path, config)
    Trainer(fresh, config).step(on_policy(fresh, random_samples()), 0)
    assert all(torch.equal(p, policy.trainable()[name]) for name, p in fresh.trainable().items())


@pytest.mark.parametrize("mismatch", [0.2600001, math.inf, math.nan])
def test_a_mismatch_above_the_bound_and_one_that_is_no_number_stop_the_run(mismatch):
    with pytest.raises(RunStopped, match=r"nats per token .* a factor of 10 in 5.0% of the tokens"):
        check_mismatch(Mismatch(1000 * mismatch, 50, 1000), Guards(mismatch_kl=0.25))


def test_a_mismatch_of_the_bound_and_one_token_and_any_without_a_bound_pass():
    check_mismatch(Mismatch(260.0, 50, 1000), Guards(mismatch_kl=0.25))
    check_mismatch(Mismatch(math.nan, 0, 1), Guards(mismatch_kl=None))
    check_mismatch(Mismatch(0.0, 0, 0), Guards())


@pytest.mark.parametrize("tokens", [1, 2, 8, 100, 20_000])
@pytest.mark.parametrize("gap", [9.3, -9.3, 60.0, -math.inf])
def test_one_outlier_token_stops_no_run_however_far_it_is_off_and_however_small_the_batch(tokens, gap):
    engine = torch.full((tokens,), -1.0)
    old = engine.clone()
    old[tokens // 2] += gap
    check_mismatch(Mismatch.between(old, engine), Guards())
    assert Mismatch.between(old, engine).outliers == 1


@pytest.mark.parametrize("tokens", [120, 2_000])
def test_a_real_mismatch_stops_the_run_at_once_in_batches_of_any_size(tokens):
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(tokens, 200, generator=rng)
    sampled = torch.multinomial(logits.softmax(-1), 1, generator=rng)

    def logprobs(logits):
        return logits.log_softmax(-1).gather(-1, sampled)[:, 0]

    engine = logprobs(logits)
    check_mismatch(
        Mismatch.between(logprobs(logits + 0.03 * torch.randn(logits.shape, generator=rng)), engine), Guards()
    )
    noise = torch.randn(logits.shape, generator=rng)
    others = (3 * noise, (logits + 3 * noise) / 2**0.5, logits / 3, torch.zeros_like(logits))
    for other in others:  # other weights, half other weights, another temperature, broken weights
        with pytest.raises(RunStopped):
            check_mismatch(Mismatch.between(logprobs(other), engine), Guards())


def test_a_batch_with_one_outlier_token_trains_and_reports_its_share(tmp_path):
    for minibatches in (1, 2):
        config = RunConfig(steps=1, minibatches=minibatches)
        policy = tiny_policy(tmp_path, config)
        samples = on_policy(policy, random_samples())
        position = trained_positions(samples[0])[-1]
        samples[0].logprobs[position] -= 9.3
        result = Trainer(policy, config).step(samples, 0)
        assert result.trained
        tokens = sum(len(trained_positions(s)) for s in samples)
        assert result.metrics["mismatch_outliers"] == pytest.approx(1 / tokens)
        assert result.metrics["mismatch_kl"] == pytest.approx(10 / tokens, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "bound", "field", "sign"),
    [
        ("entropy", 0.5, "min_entropy", -1),
        ("repetition", 0.5, "max_repetition", 1),
        ("truncated_share", 0.5, "max_truncated", 1),
        ("reference_kl", 0.5, "max_reference_kl", 1),
        ("grad_norm", 0.5, "max_grad_norm", 1),
    ],
)
def test_a_figure_of_exactly_its_bound_and_one_on_its_good_side_stop_nothing(name, bound, field, sign):
    guards = Guards.model_validate({field: bound, "patience": 2})
    check_collapse(steps_of(name, [bound, bound]), guards)
    check_collapse(steps_of(name, [bound - sign, bound - sign]), guards)
    check_collapse(steps_of(name, [bound + sign, math.nan]), guards)
    with pytest.raises(RunStopped):
        check_collapse(steps_of(name, [bound - sign, bound + sign * 0.01, bound + sign]), guards)


@pytest.mark.parametrize(
    ("guards", "name", "values", "says"),
    [
        (Guards(min_entropy=0.1), "entropy", [0.05] * 5, "stopped exploring"),
        (Guards(), "repetition", [0.9] * 5, "repeats itself"),
        (Guards(max_truncated=0.5), "truncated_share", [0.6] * 5, "within the horizon"),
        (Guards(max_reference_kl=1.0), "reference_kl", [2.0] * 5, "left its reference"),
        (Guards(max_grad_norm=10.0), "grad_norm", [11.0] * 5, "explode"),
    ],
)
def test_each_guard_stops_after_its_patience_and_names_its_figure(guards, name, values, says):
    check_collapse(steps_of(name, values[1:]), guards)
    check_collapse(steps_of(name, [*values[1:], 0.5 if name == "entropy" else 0.0]), guards)
    check_collapse(steps_of("other", values), guards)
    with pytest.raises(RunStopped, match=says) as stopped:
        check_collapse(steps_of(name, values), guards)
    assert name in str(stopped.value)
    assert "5 learner steps in a row" in str(stopped.value)


def test_repetition_counts_repeats_within_a_turn_and_not_across_turns():
    loop = [7, 8] * 10
    assert repetition([sample([1, *loop], [0] + [1] * 20)]) == pytest.approx(1 - 2 / 17)
    twice = [2, 3, 4, 5, 6]
    assert repetition([sample([1, *twice, 9, *twice], [0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1])]) == 0.0
    assert repetition([sample([1, 2], [0, 1])]) == 0.0


def test_the_best_version_played_the_most_successful_window():
    steps = steps_of("success_rate", [0.1, 0.2, 0.9, 0.8, 0.3])
    assert best_of(steps, 2) == best_of(steps[:4], 2)
    best = best_of(steps, 2)
    assert (best.step, best.version, best.success) == (3, 3, pytest.approx(0.85))  # version 3 was published by step 2
    assert best_of(steps[:1], 2) is None
    assert best_of(steps_of("success_rate", [0.5]), 1).version is None


def test_a_stopped_run_ends_with_its_reason_and_serves_its_best_version_again(tmp_path):
    guards = Guards(mismatch_kl=None, min_entropy=100.0, patience=4, best_window=1)
    server, settings = set_up(tmp_path, CONFIG.model_copy(update={"steps": 10, "guards": guards}))
    server.success = [0.1, 0.2, 0.9, 0.3]
    with pytest.raises(RunStopped):
        do_next_run(server.client(), settings)
    assert server.run.state == "failed"
    assert server.run.step == 4
    assert "stopped exploring" in server.run.reason
    assert (
        "The best version, 2, had a mean success of 0.900 at step 2 and serves again as version 5" in server.run.reason
    )
    assert server.versions[5].step == server.versions[2].step == 1, "it is the state after the same step"
    assert server.versions[5].manifest_sha256 != server.versions[2].manifest_sha256
    best, again = (load_file(Path(server.versions[n].path, "model.safetensors")) for n in (2, 5))
    assert all(torch.equal(best[name], again[name]) for name in best)
    assert not torch.equal(
        best["lm_head.weight"], load_file(Path(server.versions[4].path, "model.safetensors"))["lm_head.weight"]
    )


def test_the_best_version_survives_the_deletion_of_its_directory(tmp_path):
    guards = Guards(mismatch_kl=None, min_entropy=100.0, patience=4, best_window=1)
    server, settings = set_up(tmp_path, CONFIG.model_copy(update={"steps": 10, "guards": guards}))
    server.success = [0.1, 0.9, 0.1]

    def forget(path, body):
        if path == "/v1/batches" and body["step"] == 3:
            for file in Path(server.versions[1].path).iterdir():
                file.unlink()
            Path(server.versions[1].path).rmdir()

    server.before = forget
    with pytest.raises(RunStopped, match=r"version, 1, .* serves again as version 5"):
        do_next_run(server.client(), settings)


@pytest.mark.parametrize("config", [unguarded(), unguarded(minibatches=2), unguarded(algorithm="sft")])
def test_tokens_without_a_finite_logprob_are_counted_and_train_like_masked_tokens(tmp_path, config):
    samples = random_samples()
    broken, masked, lost = [], [], 0
    for one in samples:
        first = one.loss_mask.index(1)
        logprobs, mask = list(one.logprobs), list(one.loss_mask)
        logprobs[first], mask[first] = math.nan, 0
        lost += 1
        broken.append(one.model_copy(update={"logprobs": logprobs}))
        masked.append(one.model_copy(update={"loss_mask": mask}))
    policies = []
    for batch in (broken, masked):
        policy = tiny_policy(tmp_path, config)
        metrics = Trainer(policy, config).step(batch, 0).metrics
        assert metrics["nonfinite_tokens"] == (lost if batch is broken else 0)
        assert metrics["trained_tokens"] == sum(sum(s.loss_mask) for s in masked if any(s.loss_mask))
        policies.append(policy)
    one, other = policies
    assert all(torch.equal(p, other.trainable()[name]) for name, p in one.trainable().items())


def impossible_in(policy, samples, value):
    """Make a policy give the first trained token of the first sample the logprob `value` in its no-grad passes."""
    first = trained_positions(samples[0])[0]
    real = policy.logprobs

    def logprobs(row):
        found = real(row)
        if not torch.is_grad_enabled():
            hit = (row.target == samples[0].token_ids[first]) & (row.sample == 0)
            found.values[hit.nonzero()[:1]] = value
        return found

    policy.logprobs = logprobs


IMPOSSIBLE = {
    "two minibatches": unguarded(minibatches=2),
    "kl in the loss": unguarded(kl_coef=0.1, minibatches=2),
    "kl in the reward": unguarded(kl_coef=0.1, kl_in="reward", kl_estimator="k1"),
    "ppo": unguarded(algorithm="ppo", kl_coef=0.1, kl_in="reward"),
    "dpo": unguarded(algorithm="dpo"),
}
IMPOSSIBLE_WITH_REFERENCE = [name for name in IMPOSSIBLE if name != "two minibatches"]


@pytest.mark.parametrize("value", [-math.inf, math.nan])
@pytest.mark.parametrize(
    ("name", "of"),
    [("two minibatches", "old"), *[(name, of) for name in IMPOSSIBLE_WITH_REFERENCE for of in ("old", "reference")]],
)
def test_a_token_without_a_finite_old_or_reference_logprob_is_omitted_and_the_run_continues(tmp_path, name, of, value):
    config = IMPOSSIBLE[name]
    policy, samples = tiny_policy(tmp_path, config), random_samples(groups=2, size=2)
    trainer = Trainer(policy, config)
    if of == "reference":
        real = trainer.reference.logprobs

        def logprobs(row):
            found = real(row).clone()
            found[0] = value if int(row.sample[0]) == 0 else found[0]
            return found

        trainer.reference.logprobs = logprobs
    else:
        impossible_in(policy, samples, value)
    metrics = trainer.step(samples, 0).metrics
    assert metrics["nonfinite_tokens"] >= 1
    assert metrics["trained_tokens"] > 0
    assert {name: v for name, v in metrics.items() if not math.isfinite(v)} == {}
    assert all(p.isfinite().all() for p in policy.trainable().values())


@pytest.mark.parametrize("config", [unguarded(), unguarded(algorithm="dpo"), unguarded(algorithm="sft")])
def test_a_batch_without_any_finite_logprob_is_an_error_and_changes_no_weight(tmp_path, config):
    policy, samples = tiny_policy(tmp_path, config), random_samples(groups=1, size=2)
    trainer, before, real = Trainer(policy, config), policy.snapshot(), policy.logprobs

    def logprobs(row):
        found = real(row)
        found.values.data.fill_(-math.inf)
        return found

    policy.logprobs = logprobs
    tokens = sum(sum(s.loss_mask) for s in samples)
    with pytest.raises(FloatingPointError, match=r"is not finite \(\d+ tokens had no finite logprob\)") as failed:
        trainer.step(samples, 0)
    assert f"({tokens} tokens" in str(failed.value)
    assert all(torch.equal(before[name], p) for name, p in policy.trainable().items())
    assert not trainer.optimizer.state


def test_a_version_is_kept_by_links_or_by_copies(tmp_path, monkeypatch):
    source = tmp_path / "version"
    source.mkdir()
    (source / "a").write_text("weights")
    kept = KeptVersion(tmp_path / "best")
    assert not kept.exists()
    kept.replace(source)
    assert (kept.directory / "a").samefile(source / "a")

    def refused(*_):
        raise OSError("another file system")

    monkeypatch.setattr("learner.best.os.link", refused)
    kept.replace(source)
    assert kept.exists() and (kept.directory / "a").read_text() == "weights"
    assert not (kept.directory / "a").samefile(source / "a")
    kept.replace(tmp_path / "deleted")
    assert (kept.directory / "a").read_text() == "weights"


def test_a_tie_keeps_the_earlier_version_and_a_window_needs_all_its_steps():
    assert best_of(steps_of("success_rate", [0.5, 0.5]), 1).step == 0
    assert best_of(steps_of("success_rate", [0.5, 0.75, 0.5]), 2).step == 1
    assert best_of(steps_of("mean_reward", [0.5, 0.75]), 3) is None
    assert best_of(steps_of("mean_reward", [0.5, 0.75, 0.25]), 3).success == pytest.approx(0.5)
    assert best_of(steps_of("loss", [0.5]), 1) is None


def test_a_mismatch_over_tokens_without_a_finite_logprob_is_no_reason_to_stop(tmp_path):
    config = RunConfig(steps=1, minibatches=2)
    policy = tiny_policy(tmp_path, config)
    samples = on_policy(policy, random_samples())
    impossible_in(policy, samples, math.nan)
    metrics = Trainer(policy, config).step(samples, 0).metrics
    assert metrics["nonfinite_tokens"] == 1
    assert metrics["mismatch_kl"] < 1.0


def test_an_impossible_token_is_omitted_and_a_nan_omits_its_whole_row(tmp_path):
    config, samples = unguarded(), random_samples()
    policy = tiny_policy(tmp_path, config)
    trainer, real = Trainer(policy, config, max_row_tokens=1), policy.logprobs

    def broken(row):
        logprobs = real(row)
        if row.target.tolist() == [t for t, m in zip(samples[0].token_ids, samples[0].loss_mask, strict=True) if m]:
            logprobs.values.data[0] = math.nan
        elif len(row.target) > 1 and int(row.sample[0]) == 1:
            logprobs.values.data[0] = -math.inf
        return logprobs

    policy.logprobs = broken
    metrics = trainer.step(samples, 0).metrics
    assert metrics["nonfinite_tokens"] == sum(samples[0].loss_mask) + 1
    assert all(math.isfinite(v) for v in metrics.values())
    assert all(p.isfinite().all() for p in policy.trainable().values())
