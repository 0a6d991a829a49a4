"""Advantages: each algorithm's credit for given rewards, and that the reward reaches every sampled token."""

from __future__ import annotations

import random
from statistics import fmean, pstdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.algorithms.algorithm import EpisodeAlgorithm, TokenAlgorithm
from learner.algorithms.credit import NoGradPass
from learner.algorithms.dpo import DPO
from learner.algorithms.ppo import gae
from learner.algorithms.registry import algorithm_of
from learner.algorithms.returns import discounted_returns, discounts, normalized_over_batch, turns_after
from learner.packing import trained_positions
from tests.unit.learner.test_learner_samples import random_samples, sample
from upturn.wire import RunConfig

GROUPED = ("grpo", "dr_grpo", "rloo", "reinforce_pp_baseline")
REWARDS = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=8)
repeatable = settings(derandomize=True, deadline=None, max_examples=60)


def rewarded(rewards: dict[str, float], group: str | None = "g"):
    return [sample([1, 2], [0, 1], episode=e, group=group, reward=r) for e, r in rewards.items()]


def algorithm(name, **fields):
    """Return an algorithm with the settings of a run."""
    return algorithm_of(RunConfig.model_validate({"steps": 1, "algorithm": name, **fields}))


def by_episode(name, samples, **fields):
    """Return an algorithm's number for each episode: its credit, or the reward that its tokens' credit starts from."""
    chosen = algorithm(name, **fields)
    if isinstance(chosen, EpisodeAlgorithm):
        return chosen.episode_credit(samples)
    assert isinstance(chosen, TokenAlgorithm)
    return chosen.episode_rewards(samples)


def passes_of(samples, values=None, reference=-1.0):
    """Return the figures of a no-grad pass: old logprobs of -1, and the given values."""
    return [
        NoGradPass(
            torch.full((len(trained_positions(s)),), -1.0),
            torch.full((len(trained_positions(s)),), reference),
            torch.zeros(len(trained_positions(s))) if values is None else values[i],
        )
        for i, s in enumerate(samples)
    ]


def test_grpo_divides_by_the_unbiased_std_and_dr_grpo_does_not_divide():
    samples = rewarded({"a": 1.0, "b": 0.0})
    assert by_episode("grpo", samples) == pytest.approx({"a": 0.7071, "b": -0.7071}, abs=1e-4)
    assert by_episode("dr_grpo", samples) == {"a": 0.5, "b": -0.5}
    assert by_episode("grpo", samples, normalize_std=False) == {"a": 0.5, "b": -0.5}


def test_rloo_compares_with_the_mean_of_the_other_episodes():
    assert by_episode("rloo", rewarded({"a": 1.0, "b": 0.0, "c": 0.5})) == {"a": 0.75, "b": -0.75, "c": 0.0}


def test_an_episode_with_several_branches_counts_once():
    once = rewarded({"a": 1.0, "b": 0.0, "c": 0.0})
    for name in GROUPED:
        assert by_episode(name, [*once, once[0], once[0]]) == by_episode(name, once)


def test_groups_are_never_compared_with_each_other():
    samples = rewarded({"a": 1.0, "b": 0.0}, "g") + rewarded({"c": 100.0, "d": 0.0}, "h")
    advantages = by_episode("grpo", samples)
    assert advantages["a"] == pytest.approx(advantages["c"], rel=1e-4)
    assert by_episode("rloo", samples)["a"] == 1.0


def test_equal_rewards_single_episodes_and_missing_groups_give_no_advantage():
    for name in ("grpo", "rloo"):
        assert by_episode(name, rewarded({"a": 1.0, "b": 1.0})) == {}
        assert by_episode(name, rewarded({"a": 1.0})) == {}
        assert by_episode(name, rewarded({"a": 1.0, "b": 0.0}, None)) == {}


@repeatable
@given(st.lists(REWARDS, min_size=1, max_size=4))
def test_the_advantages_of_every_group_sum_to_zero(groups):
    samples = [
        s for g, rewards in enumerate(groups) for s in rewarded({f"{g}-{i}": r for i, r in enumerate(rewards)}, f"g{g}")
    ]
    for name in GROUPED:
        found = by_episode(name, samples)
        for g, rewards in enumerate(groups):
            mine = [found[f"{g}-{i}"] for i in range(len(rewards)) if f"{g}-{i}" in found]
            assert sum(mine) == pytest.approx(0, abs=1e-4 * max(1, *(abs(a) for a in mine), 1)), name


def test_reinforce_pp_needs_no_group_and_its_baseline_form_compares_ungrouped_episodes_with_each_other():
    samples = rewarded({"a": 1.0, "b": 0.0}, "g") + rewarded({"c": 1.0, "d": 0.0, "e": 0.5}, None)
    assert by_episode("reinforce_pp_baseline", samples) == {"a": 0.5, "b": -0.5, "c": 0.5, "d": -0.5, "e": 0.0}
    assert algorithm("reinforce_pp").teachable_episodes(samples) == set("abcde")
    assert algorithm("grpo").teachable_episodes(samples) == set("ab")
    alone = [*samples, *rewarded({"f": 1.0}, "single")]
    assert by_episode("reinforce_pp_baseline", alone) == by_episode("reinforce_pp_baseline", samples)
    assert algorithm("reinforce_pp_baseline").teachable_episodes(alone) == set("abcde")
    assert algorithm("reinforce_pp_baseline").teachable_episodes(rewarded({"f": 1.0}, "single")) == set()
    same = rewarded({"a": 1.0, "b": 1.0})
    assert algorithm("reinforce_pp").teachable_episodes(same) == set()
    assert algorithm("ppo").teachable_episodes(same) == set("ab")  # equal rewards still teach the value head


@repeatable
@given(st.lists(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=5), min_size=1, max_size=5))
def test_returns_are_normalized_over_all_tokens_of_the_batch(returns):
    tensors = [torch.tensor(one, dtype=torch.float64) for one in returns]
    flat = [value for one in returns for value in one]
    expected = [(value - fmean(flat)) / (pstdev(flat) + 1e-8) for value in flat]
    assert torch.cat(normalized_over_batch(tensors)).tolist() == pytest.approx(expected, abs=1e-6)


def test_each_sampled_token_counts_the_turns_after_its_own_turn():
    two = sample([1, 2, 3, 4, 9, 5, 9], [0, 0, 1, 1, 0, 1, 0])
    assert turns_after(two).tolist() == [1, 1, 0]
    broken = sample([1, 2, 3, 4, 9, 5], [0, 1, 1, 1, 0, 1], logprobs=[0.0, -1.0, float("nan"), -1.0, 0.0, -1.0])
    assert turns_after(broken).tolist() == [1, 1, 0]  # a dropped token does not end its turn


def test_a_turn_discount_gives_early_turns_less_of_the_reward():
    won = sample([1, 2, 3, 9, 5, 9, 6], [0, 1, 1, 0, 1, 0, 1], episode="a", reward=1.0)
    lost = won.model_copy(update={"episode_id": "b", "reward": 0.0})
    for name, last in (("dr_grpo", 0.5), ("rloo", 1.0)):
        first, second = algorithm(name, turn_discount=0.5).credit([won, lost], None).advantages
        assert first.tolist() == [last / 4, last / 4, last / 2, last]
        assert torch.equal(second, -first)
    factors = discounts(turns_after(won), 0.5)
    assert factors.tolist() == [1.0, 0.5, 0.5, 1.0]
    assert discounted_returns(torch.tensor([0, 0, 0, 1.0]), factors).tolist() == [0.25, 0.25, 0.5, 1.0]


@repeatable
@given(st.integers(0, 2**31), st.integers(1, 8), st.floats(0, 1), st.floats(0.1, 1))
def test_gae_is_the_discounted_sum_of_temporal_differences(seed, length, decay, discount):
    rng = random.Random(seed)
    rewards, values = ([rng.uniform(-1, 1) for _ in range(length)] for _ in range(2))
    factors = [discount if rng.random() < 0.3 else 1.0 for _ in range(length - 1)] + [1.0]
    found = gae(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(factors, dtype=torch.float64),
        decay,
    ).tolist()
    after = [*values[1:], 0.0]
    errors = [r + f * v1 - v0 for r, f, v1, v0 in zip(rewards, factors, after, values, strict=True)]
    for t in range(length):
        total, factor = 0.0, 1.0
        for k in range(t, length):
            total += factor * errors[k]
            factor *= decay * factors[k]
        assert found[t] == pytest.approx(total, abs=1e-9)


def test_with_lambda_1_the_advantage_is_the_return_minus_the_value():
    rewards, values = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.3, 0.2, 0.9])
    assert gae(rewards, values, torch.ones(3), 1.0).tolist() == pytest.approx([0.7, 0.8, 0.1])


def test_an_observation_between_turns_does_not_change_advantages_or_returns():
    without = sample([1, 2, 3], [0, 1, 1], episode="a", reward=1.0)
    between = sample([1, 2, 8, 9, 3, 9], [0, 1, 0, 0, 1, 0], episode="b", reward=1.0)
    values = [torch.tensor([0.5, 0.25])] * 2
    credit = algorithm("ppo").credit([without, between], passes_of([without, between], values))
    assert torch.equal(credit.advantages[0], credit.advantages[1])
    assert credit.returns is not None
    assert credit.returns[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "ppo"])
def test_success_and_failure_differ_at_every_sampled_token_even_if_the_episode_ends_with_an_observation(name):
    won = sample([1, 2, 3, 4, 9, 5, 9], [0, 0, 1, 1, 0, 1, 0], episode="won", reward=1.0)
    lost = won.model_copy(update={"episode_id": "lost", "reward": 0.0})
    assert won.reward * won.loss_mask[-1] == 0.0  # all that AgentGym-RL's mask leaves of the reward
    good, bad = algorithm(name).credit([won, lost], passes_of([won, lost])).advantages
    assert len(good) == 3
    assert bool((good > 0).all() and (bad < 0).all())
    assert torch.equal(good, -bad)


def test_a_kl_in_the_reward_is_subtracted_from_each_tokens_return():
    kl = {"kl_coef": 0.1, "kl_in": "reward", "kl_estimator": "k1"}
    samples = rewarded({"a": 1.0, "b": 0.0})
    passes = passes_of(samples, reference=-2.0)  # the policy is one nat likelier than the reference
    chosen = algorithm("dr_grpo", **kl)
    assert torch.cat(chosen.credit(samples, passes).advantages).tolist() == pytest.approx([0.5, -0.5])
    passes[0] = passes_of(samples, reference=-1.0)[0]  # only b has left the reference
    assert torch.cat(chosen.credit(samples, passes).advantages).tolist() == pytest.approx([0.55, -0.55])
    long = [sample([1, 2, 3], [0, 1, 1], episode=e, reward=r) for e, r in (("a", 1.0), ("b", 0.0))]
    passes = passes_of(long, reference=-2.0)
    flat = [1 - 0.2, 1 - 0.1, -0.2, -0.1]
    expected = [(value - fmean(flat)) / pstdev(flat) for value in flat]
    advantages = algorithm("reinforce_pp", **kl).credit(long, passes).advantages
    assert torch.cat(advantages).tolist() == pytest.approx(expected, abs=1e-5)


def test_agent_evol_weights_episodes_above_the_threshold_by_reward_and_drops_the_rest():
    samples = rewarded({"a": 1.0, "b": 0.5, "c": 0.0})
    assert by_episode("agent_evol", samples) == {"a": pytest.approx(4 / 3), "b": pytest.approx(2 / 3)}
    assert by_episode("agent_evol", samples, evol_threshold=0.9) == {"a": 1.0}
    assert by_episode("agent_evol", samples, evol_threshold=2.0) == {}


def test_dpo_takes_pairs_whose_rewards_are_at_least_the_gap_apart():
    for reward, pairs in ((0.75, [("a", "b")]), (0.5, [("a", "b")]), (0.4375, [])):
        samples = rewarded({"a": reward, "b": 0.0})
        chosen = algorithm("dpo", dpo_min_gap=0.5)
        assert isinstance(chosen, DPO)
        assert chosen.pairs(samples) == pairs
        assert chosen.teachable_episodes(samples) == {episode for pair in pairs for episode in pair}


def test_dpo_breaks_ties_by_the_smallest_id_in_any_order():
    samples = rewarded({"d": 0.0, "b": 1.0, "c": 0.0, "a": 1.0, "e": 0.5})
    chosen = algorithm("dpo")
    assert isinstance(chosen, DPO)
    assert chosen.pairs(samples) == chosen.pairs(samples[::-1]) == [("a", "c")]


def test_lineage_records_each_episodes_mean_over_its_tokens():
    samples = random_samples(groups=1, size=4)
    found = algorithm("rloo").credit(samples, None).by_episode(samples)
    assert found == pytest.approx(by_episode("rloo", samples))
