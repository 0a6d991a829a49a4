"""The loss: which tokens learn, with which weight, and what is clipped or dropped."""

from __future__ import annotations

import math

import pytest
import torch

from learner.algorithms.kl import kl_estimate
from learner.algorithms.loss import LossConfig, policy_loss
from learner.algorithms.normalization import token_weights, units
from learner.algorithms.registry import algorithm_of
from learner.algorithms.sft import imitation_loss
from learner.packing import pack
from tests.unit.learner.test_learner_samples import sample
from upturn.wire import RunConfig, Sample

DEFAULTS = LossConfig()


def loss_of(current, old, engine, advantages, sample_of=None, config=DEFAULTS, reference=None):
    sample_of = torch.zeros(len(current), dtype=torch.long) if sample_of is None else sample_of
    t = torch.tensor
    reference = None if reference is None else t(reference)
    current = t(current, requires_grad=True)
    weight = torch.full((len(current),), 1 / len(current))
    out = policy_loss(current, t(old), t(engine), t(advantages), sample_of, weight, config, reference)
    (gradient,) = torch.autograd.grad(out.loss, current)
    return out, gradient


def reference_credit(one: Sample) -> list[float]:
    """Return each token's reward in AgentGym-RL's code: on the last token, times the mask."""
    rewards = [0.0] * len(one.token_ids)
    rewards[-1] = one.reward
    return [r * m for r, m in zip(rewards, one.loss_mask, strict=True)]


def test_a_reward_reaches_every_sampled_token_although_the_episode_ends_with_an_observation():
    # prompt, prompt, A, A, observation, A, observation: the episode ends with an observation
    won = sample([1, 2, 3, 4, 9, 5, 9], [0, 0, 1, 1, 0, 1, 0], episode="won", reward=1.0)
    lost = sample([1, 2, 6, 7, 9, 8, 9], [0, 0, 1, 1, 0, 1, 0], episode="lost", reward=0.0)
    assert sum(reference_credit(won)) == 0.0  # AgentGym-RL's bug: success and failure look alike

    samples = [won, lost]
    advantages = algorithm_of(RunConfig(steps=1)).episode_credit(samples)
    (row,) = pack(samples)
    per_token = torch.tensor([advantages[s.episode_id] for s in samples])[row.sample]
    current = row.engine_logprobs.clone().requires_grad_()
    mean = torch.full((len(current),), 1 / len(current))
    loss = policy_loss(current, current, row.engine_logprobs, per_token, row.sample, mean, LossConfig()).loss
    (gradient,) = torch.autograd.grad(loss, current)
    ours = {int(t): float(g) for t, g in zip(row.target, gradient, strict=True)}
    assert set(ours) == {3, 4, 5, 6, 7, 8}  # every sampled token, but neither prompt nor observation
    assert all(
        ours[token] == pytest.approx(-0.7071 / 6, abs=1e-4) for token in (3, 4, 5)
    )  # the won episode is pushed up
    assert all(ours[token] == pytest.approx(0.7071 / 6, abs=1e-4) for token in (6, 7, 8))


def test_with_old_equal_to_current_the_gradient_is_the_policy_gradient():
    _, gradient = loss_of([-1.0, -2.0], [-1.0, -2.0], [-1.0, -2.0], [2.0, -1.0])
    assert gradient.tolist() == pytest.approx([-1.0, 0.5])


def test_the_importance_weight_is_truncated_from_above_only():
    out, gradient = loss_of([-1.0, -1.0], [-1.0, -1.0], [-3.0, -0.5], [1.0, 1.0])
    assert gradient.tolist() == pytest.approx([-2.0 / 2, -math.exp(-0.5) / 2])
    assert float(out.capped_sum) == 1


def test_the_clip_stops_moves_beyond_its_range_but_never_moves_back_into_it():
    far = math.log(1.5)
    out, gradient = loss_of([far, far], [0.0, 0.0], [0.0, 0.0], [1.0, -1.0])
    assert gradient.tolist() == pytest.approx([0.0, 1.5 / 2])
    assert float(out.clipped_sum) == 1


def test_a_sample_with_an_extreme_mismatch_is_dropped_as_a_whole():
    sample_of = torch.tensor([0, 0, 1])
    out, gradient = loss_of([-1.0] * 3, [-1.0] * 3, [-4.0, -1.0, -1.0], [1.0] * 3, sample_of)
    assert gradient.tolist() == pytest.approx([0.0, 0.0, -1 / 3])
    assert float(out.masked_sum) == 2


@pytest.mark.parametrize(("old", "engine"), [(-1.0, -4.0), (-4.0, -1.0)], ids=["likelier", "less likely"])
def test_a_mismatch_in_either_direction_drops_the_sample(old, engine):
    out, gradient = loss_of([old, -1.0], [old, -1.0], [engine, -1.0], [1.0, 1.0], torch.tensor([0, 1]))
    assert gradient.tolist() == pytest.approx([0.0, -1 / 2])
    assert float(out.masked_sum) == 1


def test_a_mismatch_of_exactly_the_cap_is_kept():
    config = LossConfig(sequence_cap=1.0)
    out, gradient = loss_of([-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.25], [1.0, 1.0], torch.tensor([0, 1]), config)
    assert gradient.tolist() == pytest.approx([-1 / 2, 0.0])
    assert float(out.masked_sum) == 1


def test_mismatch_kl_is_zero_for_equal_logprobs_and_positive_otherwise():
    same, _ = loss_of([-1.0], [-1.0], [-1.0], [1.0])
    other, _ = loss_of([-1.0], [-1.0], [-1.1], [1.0])
    assert float(same.mismatch_kl_sum) == 0
    assert float(other.mismatch_kl_sum) == pytest.approx(math.exp(0.1) - 0.1 - 1, rel=1e-4)


def test_the_kl_term_pulls_toward_the_reference():
    config = LossConfig(kl_coef=0.5)
    out, gradient = loss_of([-1.0], [-1.0], [-1.0], [0.0], config=config, reference=[-0.5])
    assert float(out.loss.detach()) == pytest.approx(0.5 * (math.exp(0.5) - 0.5 - 1))
    assert gradient.item() == pytest.approx(-0.5 * (math.exp(0.5) - 1))


def test_the_kl_term_has_the_weight_of_its_token_and_none_in_a_dropped_sample():
    t = torch.tensor
    current, old, reference = t([-1.0] * 3, requires_grad=True), t([-1.0] * 3), t([-0.5] * 3)
    out = policy_loss(
        current,
        old,
        t([-1.0, -1.0, -9.0]),
        torch.zeros(3),
        t([0, 1, 2]),
        t([0.25, 2.0, 1.0]),
        LossConfig(kl_coef=0.5),
        reference,
    )
    (gradient,) = torch.autograd.grad(out.loss, current)
    one = 0.5 * (math.exp(0.5) - 0.5 - 1)
    assert float(out.loss.detach()) == pytest.approx((0.25 + 2.0) * one)
    assert gradient.tolist() == pytest.approx([w * -0.5 * (math.exp(0.5) - 1) for w in (0.25, 2.0, 0.0)])
    assert float(out.reference_kl_sum) == pytest.approx(3 * 2 * one)


def test_a_reference_without_a_coefficient_is_measured_and_changes_no_loss():
    plain, gradient = loss_of([-1.0], [-1.0], [-1.0], [1.0])
    measured, same = loss_of([-1.0], [-1.0], [-1.0], [1.0], reference=[-0.5])
    assert float(measured.loss.detach()) == float(plain.loss.detach())
    assert torch.equal(gradient, same)
    assert float(measured.reference_kl_sum) > 0


def test_splitting_tokens_over_calls_does_not_change_the_loss():
    generator = torch.Generator().manual_seed(0)
    current, engine, advantages = (torch.randn(6, generator=generator) for _ in range(3))
    of = torch.tensor([0, 0, 0, 1, 1, 1])
    weight = torch.full((6,), 1 / 6)
    whole = policy_loss(current, current, engine, advantages, of, weight, LossConfig()).loss
    parts = [
        policy_loss(current[i], current[i], engine[i], advantages[i], of[i], weight[i], LossConfig()).loss
        for i in (slice(0, 3), slice(3, 6))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole))


def test_an_extreme_logprob_gives_a_finite_loss():
    out, gradient = loss_of([-200.0, -1.0], [-200.0, -1.0], [-0.1, -200.0], [1.0, 1.0], torch.tensor([0, 1]))
    assert math.isfinite(float(out.loss.detach()))
    assert torch.isfinite(gradient).all()


def test_sft_is_cross_entropy_over_all_trained_tokens():
    assert float(imitation_loss(torch.tensor([-1.0, -3.0]), torch.ones(2))) == 4.0


def test_clip_higher_allows_larger_moves_up_than_down():
    up, down = math.log(1.25), math.log(0.75)
    config = LossConfig(clip=0.2, clip_high=0.28)
    out, gradient = loss_of([up, down], [0.0, 0.0], [0.0, 0.0], [1.0, -1.0], config=config)
    assert gradient.tolist() == pytest.approx([-1.25 / 2, 0.0])
    assert float(out.clipped_sum) == 1


def test_cispo_keeps_the_gradient_of_every_token_and_caps_its_weight():
    far = math.log(3.0)
    config = LossConfig(form="cispo", clip_high=1.0)
    out, gradient = loss_of([far, -far], [0.0, 0.0], [0.0, 0.0], [1.0, -1.0], config=config)
    assert gradient.tolist() == pytest.approx([-2.0 / 2, 1 / 3 / 2])
    assert float(out.clipped_sum) == 1


def test_gspo_clips_whole_samples_by_their_mean_ratio():
    of = torch.tensor([0, 0, 1, 1])
    config = LossConfig(form="gspo", clip=0.2)
    current = [math.log(1.5), math.log(1 / 1.5), math.log(1.5), math.log(1.5)]
    out, gradient = loss_of(current, [0.0] * 4, [0.0] * 4, [1.0] * 4, of, config)
    assert gradient.tolist() == pytest.approx([-0.25, -0.25, 0.0, 0.0])  # the second sample's mean ratio is 1.5
    assert float(out.clipped_sum) == 2


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [
        ("k1", 0.5, 1.0),
        ("k2", 0.125, 0.5),
        ("k3", math.exp(-0.5) + 0.5 - 1, 1 - math.exp(-0.5)),
    ],
)
def test_each_kl_estimator_has_the_value_and_gradient_of_its_formula(estimator, value, slope):
    current = torch.tensor([-1.0], requires_grad=True)
    estimate = kl_estimate(current, torch.tensor([-1.5]), estimator, clamp=10.0)
    (gradient,) = torch.autograd.grad(estimate.sum(), current)
    assert estimate.item() == pytest.approx(value)
    assert gradient.item() == pytest.approx(slope)


def test_kl_estimates_average_to_the_true_kl():
    p, q = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.4, 0.4, 0.2]).log()
    true = float((p.exp() * (p - q)).sum())
    for estimator in ("k1", "k3"):
        assert float((p.exp() * kl_estimate(p, q, estimator, 10.0)).sum()) == pytest.approx(true, abs=1e-6)
    assert float((p.exp() * kl_estimate(p, q, "k2", 10.0)).sum()) == pytest.approx(true, rel=0.1)


GAPS = [-1e4, -100.0, -20.0, -11.5, -10.5, -1.0, 0.0, 1.0, 2.5, 2.7, 9.5, 19.0, 100.0, 1e4]


def test_the_value_of_k3_is_bounded_as_in_verl_and_k1_and_k2_are_not():
    """The reference is `kl_penalty_forward` of verl, computed with Python's floats."""
    for gap in GAPS:
        inner = max(-20.0, min(20.0, gap))
        verl = {"k1": -gap, "k2": 0.5 * gap**2, "k3": max(-10.0, min(10.0, math.exp(inner) - inner - 1))}
        slopes = {"k1": 1.0, "k2": -gap, "k3": 1 - math.exp(inner) if verl["k3"] < 10 else 0.0}
        for estimator, value in verl.items():
            current = torch.tensor([-gap], requires_grad=True)
            estimate = kl_estimate(current, torch.tensor([0.0]), estimator, clamp=10.0)
            (gradient,) = torch.autograd.grad(estimate.sum(), current)
            assert estimate.item() == pytest.approx(value, rel=1e-5), (estimator, gap)
            assert gradient.item() == pytest.approx(slopes[estimator], rel=1e-5), (estimator, gap)


def test_a_token_far_from_the_reference_cannot_outweigh_the_batch():
    for gap in GAPS:
        out, gradient = loss_of([-gap], [-gap], [-gap], [0.0], config=LossConfig(kl_coef=1.0), reference=[0.0])
        assert 0 <= float(out.loss.detach()) <= 10
        assert abs(gradient.item()) < 12.7  # exp(d) - 1 where k3 reaches its bound


def test_the_gradient_is_finite_however_large_bound_and_gap_are():
    for gap in GAPS:
        current = torch.tensor([-gap], requires_grad=True)
        (gradient,) = torch.autograd.grad(kl_estimate(current, torch.zeros(1), "k3", clamp=1e30).sum(), current)
        assert torch.isfinite(gradient).all()


def test_each_normalization_weights_tokens_by_its_formula():
    of = torch.tensor([0, 0, 0, 1])
    expected = (("token", [1.0] * 4, 4), ("sample", [1 / 3] * 3 + [1.0], 2), ("constant", [0.1] * 4, 2))
    for name, weights, count in expected:
        config = RunConfig(steps=1, loss_normalization=name, constant_tokens=10)
        assert token_weights(of, config).tolist() == pytest.approx(weights)
        assert units(of, config) == count
