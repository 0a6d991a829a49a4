"""The learner against independent implementations: Liger's PyTorch losses, and closed forms on padded batches."""

from __future__ import annotations

import random

import pytest
import torch
from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction
from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOLoss

from learner.algorithms.credit import NoGradPass
from learner.algorithms.registry import algorithm_of
from learner.minibatch import Minibatch
from learner.model.reference import Reference
from learner.packing import RowLimits, trained_positions
from learner.step import Trainer
from tests.unit.learner.test_learner_samples import plain_logprobs, random_samples, tiny_policy, unguarded
from upturn.wire import RunConfig

FORMS = {
    "grpo": ({"loss_normalization": "sample"}, {"loss_type": "grpo"}),
    "dapo": ({"clip_high": 0.28}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dr_grpo": (
        {"loss_normalization": "constant", "constant_tokens": 50},
        {"loss_type": "dr_grpo", "max_completion_length": 50},
    ),
    "cispo": ({"policy_loss": "cispo", "clip_high": 0.3}, {"loss_type": "cispo", "epsilon_high": 1.3}),
    "gspo": (
        {"policy_loss": "gspo", "loss_normalization": "sample"},
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    ),
    "kl": ({"kl_coef": 0.3}, {"loss_type": "dapo", "beta": 0.3}),
}


def made(directory, seed=0):
    """Return a policy, forked multi-turn samples, and old, engine and reference logprobs close to the policy's."""
    policy, rng = tiny_policy(directory), torch.Generator().manual_seed(seed)
    samples, passes = [], []
    for one in random_samples(seed):
        one = one.model_copy(update={"temperatures": [1.0] * len(one.token_ids)})
        with torch.no_grad():
            now = plain_logprobs(policy, one)
        with_engine, one_pass = near(one, now, rng)
        samples.append(with_engine)
        passes.append(one_pass)
    return policy, samples, passes


def near(one, now, rng):
    """Return a sample with engine logprobs, and old and reference logprobs, close to logprobs `now` [m]."""
    old, engine, reference = (now + 0.2 * torch.randn(len(now), generator=rng) for _ in range(3))
    logprobs = torch.zeros(len(one.token_ids))
    logprobs[trained_positions(one)] = engine
    return one.model_copy(update={"logprobs": logprobs.tolist()}), NoGradPass(old, reference)


def ours(policy, samples, passes, config, rows=4096):
    """Return the learner's loss and gradients of one packed minibatch."""
    policy.model.zero_grad(set_to_none=True)
    reference = Reference(policy, None) if algorithm_of(config).needs_reference else None
    minibatch = Minibatch(samples, policy, reference, config, RowLimits(rows))
    minibatch.passes = passes
    sums = minibatch.backward(algorithm_of(config).credit(samples, passes))
    return sums.losses["loss"] / sums.units, {n: p.grad / sums.units for n, p in policy.trainable().items()}


def padded(samples, values):
    """Return [B, T-1]: `values` at the positions that predict each sample's trained tokens, 0 elsewhere."""
    length = max(len(s.token_ids) for s in samples) - 1
    out = torch.zeros(len(samples), length)
    for row, (one, its) in enumerate(zip(samples, values, strict=True)):
        out[row, torch.tensor(trained_positions(one)) - 1] = its
    return out


def padded_hidden(policy, samples):
    """Return [B, T-1, H] hidden states of an ordinary padded batch, and [B, T-1] the tokens they predict."""
    length = max(len(s.token_ids) for s in samples)
    ids = torch.tensor([s.token_ids + [0] * (length - len(s.token_ids)) for s in samples])
    lengths = torch.tensor([len(s.token_ids) for s in samples])
    real = (torch.arange(length)[None] < lengths[:, None]).long()
    hidden = policy.model.get_decoder()(input_ids=ids, attention_mask=real).last_hidden_state
    return hidden[:, :-1], ids[:, 1:]


def assert_same(policy, expected_loss, loss, gradients):
    scale = max(float(p.grad.abs().max()) for p in policy.trainable().values())
    assert loss == pytest.approx(float(expected_loss), rel=1e-5, abs=1e-5)
    for name, p in policy.trainable().items():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-5 * max(1.0, scale), rtol=1e-4, msg=name)


@pytest.mark.parametrize("form", list(FORMS))
def test_packed_losses_and_gradients_match_liger_on_a_padded_batch(tmp_path, form):
    fields, arguments = FORMS[form]
    config = unguarded(sequence_cap=1e6, **fields)
    policy, samples, passes = made(tmp_path)
    loss, gradients = ours(policy, samples, passes, config)

    advantages = torch.tensor([float(a[0]) for a in algorithm_of(config).credit(samples, passes).advantages])
    mask = padded(samples, [torch.ones(len(trained_positions(s))) for s in samples])
    old, reference = padded(samples, [s.old for s in passes]), padded(samples, [s.reference for s in passes])
    engine = padded(samples, [torch.tensor(s.logprobs)[trained_positions(s)] for s in samples])
    policy.model.zero_grad(set_to_none=True)
    hidden, targets = padded_hidden(policy, samples)
    oracle = LigerFusedLinearGRPOLoss(
        compiled=False, use_ref_model=True, chunk_size=len(samples), **{"beta": 0.0, **arguments}
    )
    expected, _ = oracle(
        hidden,
        policy.model.get_output_embeddings().weight,
        targets,
        mask,
        advantages,
        ref_per_token_logps=reference,
        old_per_token_logps=old,
        vllm_is_ratio=(old - engine).exp().clamp(max=2.0),
    )
    expected.backward()
    assert_same(policy, expected.detach(), loss, gradients)


@pytest.mark.parametrize(
    "config",
    [
        unguarded(),
        unguarded(loss_normalization="sample"),
        unguarded(policy_loss="gspo"),
        unguarded(kl_coef=0.1),
        unguarded(algorithm="sft"),
        unguarded(algorithm="agent_evol"),
        unguarded(algorithm="dpo"),
        unguarded(algorithm="reinforce_pp", kl_coef=0.1, kl_in="reward"),
    ],
    ids=lambda c: f"{c.algorithm}-{c.policy_loss}-{c.loss_normalization}-{c.kl_coef}",
)
def test_row_size_does_not_change_loss_or_gradient(tmp_path, config):
    policy, samples, passes = made(tmp_path)
    selects = config.traits.episodes
    if selects == "best_and_worst":
        samples = [s for s in samples if s.episode_id[-1] in "01"]
        passes = Minibatch(samples, policy, Reference(policy, None), config, RowLimits()).no_grad_pass()
    elif selects == "above_threshold":
        kept = [i for i, s in enumerate(samples) if s.reward > 0]
        samples, passes = [samples[i] for i in kept], [passes[i] for i in kept]
    loss, gradients = ours(policy, samples, passes, config)
    for rows in (80, 1):
        other_loss, others = ours(policy, samples, passes, config, rows)
        assert other_loss == pytest.approx(loss, abs=1e-5)
        for name in gradients:
            torch.testing.assert_close(others[name], gradients[name], atol=1e-5, rtol=1e-3, msg=name)


def test_dpo_loss_and_gradient_match_ligers_closed_form(tmp_path):
    config = unguarded(algorithm="dpo", dpo_beta=0.3)
    policy, samples, _ = made(tmp_path)
    samples = [s for s in samples if s.episode_id[-1] in "01"]  # one better and one worse episode of each group
    minibatch = Minibatch(samples, policy, Reference(policy, None), config, RowLimits(60))
    passes = [NoGradPass(s.old, s.reference - 0.1 * i) for i, s in enumerate(minibatch.no_grad_pass())]
    credit = algorithm_of(config).credit(samples, passes)
    _, gradients = ours(policy, samples, passes, config, rows=60)

    policy.model.zero_grad(set_to_none=True)
    sums = {s.episode_id: plain_logprobs(policy, s).sum() for s in samples}
    references = {s.episode_id: float(one.reference.sum()) for s, one in zip(samples, passes, strict=True)}
    groups = sorted({s.group for s in samples})
    chosen, rejected = (torch.stack([sums[f"{g}e{e}"] for g in groups]) for e in (1, 0))
    first, second = (torch.tensor([references[f"{g}e{e}"] for g in groups]) for e in (1, 0))
    expected, *_ = LigerFusedLinearDPOFunction.preference_loss_fn(
        chosen, rejected, torch.zeros(2 * len(groups), 1), first, second, beta=0.3
    )
    expected.backward()
    assert_same(policy, expected.detach(), credit.metrics["dpo_loss"] / len(groups), gradients)


def test_ppo_adds_the_value_loss_over_the_same_tokens(tmp_path):
    config = unguarded(algorithm="ppo")
    policy, samples, passes = made(tmp_path)
    policy.add_value_head()
    with torch.no_grad():
        policy.value_head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    look = Minibatch(samples, policy, None, config, RowLimits()).no_grad_pass()
    passes = [NoGradPass(s.old, None, v.values) for s, v in zip(passes, look, strict=True)]
    credit = algorithm_of(config).credit(samples, passes)
    policy.value_head.zero_grad()
    loss, gradients = ours(policy, samples, passes, config, rows=60)
    head = policy.value_head.weight.grad.clone() / sum(len(trained_positions(s)) for s in samples)

    policy.model.zero_grad(set_to_none=True)
    policy.value_head.zero_grad()
    terms, tokens = [], 0
    for one, saw, advantage, target in zip(samples, passes, credit.advantages, credit.returns, strict=True):
        positions = torch.tensor(trained_positions(one))
        hidden = policy.model.get_decoder()(input_ids=torch.tensor([one.token_ids])).last_hidden_state[0]
        values = policy.value_head(hidden[positions - 1])[:, 0]
        ratio = (plain_logprobs(policy, one) - saw.old).exp()
        weight = (saw.old - torch.tensor(one.logprobs)[positions]).exp().clamp(max=2.0)
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        terms.append((-weight * gain + 0.1 * 0.5 * (values - target) ** 2).sum())
        tokens += len(positions)
    expected = torch.stack(terms).sum() / tokens
    expected.backward()
    assert_same(policy, expected.detach(), loss, gradients)
    torch.testing.assert_close(head, policy.value_head.weight.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "algorithm", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "ppo", "dpo", "agent_evol"]
)
def test_the_reward_reaches_the_weights_in_every_algorithm(tmp_path, algorithm):
    """Swapping the rewards moves the weights the other way; with AgentGym-RL's mask they would not move."""
    moved = []
    for flip in (False, True):
        config = RunConfig(steps=1, algorithm=algorithm, guards={"mismatch_kl": None}, dpo_min_gap=0.1)
        policy = tiny_policy(tmp_path, config)
        rng = random.Random(0)
        samples = [
            s.model_copy(update={"reward": (1 - s.reward) if flip else s.reward})
            for s in random_samples()
            if s.temperatures[-1] == 1.0
        ]
        samples = [
            s.model_copy(
                update={  # the episode ends with an observation, whose mask must not swallow the reward
                    "token_ids": [*s.token_ids, rng.randrange(250)],
                    "loss_mask": [*s.loss_mask, 0],
                    "logprobs": [*s.logprobs, 0.0],
                    "temperatures": [*s.temperatures, 1.0],
                }
            )
            for s in samples
        ]
        before = {s.episode_id: float(plain_logprobs(policy, s).detach().sum()) for s in samples}
        assert Trainer(policy, config).step(samples, 0).trained
        good = [s for s in samples if s.episode_id[-1] in "13"]
        moved.append(sum(float(plain_logprobs(policy, s).detach().sum()) - before[s.episode_id] for s in good))
    assert moved[0] > moved[1]
    if not (config.traits.needs_values or config.traits.episodes == "above_threshold"):
        assert moved[0] > 0 > moved[1]


@pytest.mark.parametrize("fields", [{}, {"loss_normalization": "sample"}, {"algorithm": "sft"}], ids=str)
def test_the_gradient_before_clipping_is_the_mean_of_the_closed_form(tmp_path, fields):
    config = unguarded(sequence_cap=1e6, **fields)
    policy, samples, _ = made(tmp_path)
    advantages = algorithm_of(config).credit(samples, None).advantages
    terms, tokens = [], sum(len(trained_positions(s)) for s in samples)
    for one, advantage in zip(samples, advantages, strict=True):
        now = plain_logprobs(policy, one)
        tis = (now.detach() - torch.tensor(one.logprobs)[trained_positions(one)]).exp().clamp(max=2.0)
        term = -(advantage * (1.0 if config.traits.off_policy else tis) * now)
        terms.append(term.mean() / len(samples) if fields.get("loss_normalization") else term.sum() / tokens)
    torch.stack(terms).sum().backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in policy.trainable().values()])
    policy.model.zero_grad(set_to_none=True)
    found = Trainer(policy, config, max_row_tokens=60).step(samples, 0).metrics["grad_norm"]
    assert found == pytest.approx(float(expected), rel=1e-5)
