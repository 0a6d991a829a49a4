"""Packing computes shared tokens once and changes no result."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from learner.model.attention import trie_of
from learner.model.policy import Policy
from learner.packing import RowLimits, pack
from tests.unit.learner.test_learner_samples import plain_logprobs, random_samples, sample, tiny_policy

SHAPE = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}


def gathered(policy, samples, rows):
    """Return [S] of [m], the packed logprobs of each sample."""
    by_sample = [[] for _ in samples]
    for row in rows:
        values = policy.logprobs(row).values
        for i, value in zip(row.sample.tolist(), values, strict=True):
            by_sample[i].append(value)
    return [torch.stack(values) for values in by_sample]


def test_the_trie_of_two_branches_matches_the_docstring():
    first = sample([10, 11, 20, 21], [0, 0, 1, 1])
    second = sample([10, 11, 30, 31], [0, 0, 1, 1])
    (row,) = pack([first, second])
    assert row.token_ids.tolist() == [10, 11, 20, 21, 30, 31]
    assert row.depth.tolist() == [0, 1, 2, 3, 2, 3]
    assert row.end.tolist() == [6, 6, 4, 4, 6, 6]
    assert row.parent.tolist() == [1, 2, 1, 4]
    assert row.sample.tolist() == [0, 0, 1, 1]
    assert row.unpacked_tokens == 8


@pytest.mark.parametrize("limits", [RowLimits(), RowLimits(max_tokens=60), RowLimits(max_tokens=1)])
def test_packed_logprobs_equal_a_pass_over_each_sample_alone(tmp_path, limits):
    policy, samples = tiny_policy(tmp_path), random_samples()
    with torch.no_grad():
        for one, packed in zip(samples, gathered(policy, samples, pack(samples, limits)), strict=True):
            torch.testing.assert_close(packed, plain_logprobs(policy, one), atol=1e-5, rtol=0)


def test_packed_gradients_equal_a_pass_over_each_sample_alone(tmp_path):
    policy, samples = tiny_policy(tmp_path), random_samples(seed=1)
    rows = pack(samples)
    assert sum(len(row.token_ids) for row in rows) < 0.7 * sum(row.unpacked_tokens for row in rows)
    parameters = list(policy.trainable().values())
    packed = torch.autograd.grad(sum(v.sum() for v in gathered(policy, samples, rows)), parameters)
    plain = torch.autograd.grad(sum(plain_logprobs(policy, one).sum() for one in samples), parameters)
    for a, b in zip(packed, plain, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="sdpa")),
        lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, attn_implementation="sdpa")),
        lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16, attn_implementation="sdpa")),
    ],
    ids=["llama", "qwen2", "qwen3"],
)
def test_llama_and_qwen_with_grouped_queries_use_the_trie(tmp_path, make):
    torch.manual_seed(0)
    policy, samples = Policy(make(), tmp_path, torch.float32), random_samples(seed=2)
    rows = pack(samples)
    assert all(trie_of(row.end) for row in rows)
    with torch.no_grad():
        for one, packed in zip(samples, gathered(policy, samples, rows), strict=True):
            torch.testing.assert_close(packed, plain_logprobs(policy, one), atol=1e-5, rtol=0)


def test_a_model_with_sliding_windows_is_refused(tmp_path):
    config = Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(ValueError, match="full attention"):
        Policy(Qwen2ForCausalLM(config), tmp_path, torch.float32)


def test_an_output_layer_in_pieces_gives_the_same_numbers(tmp_path, monkeypatch):
    policy, samples = tiny_policy(tmp_path), random_samples(groups=1)
    (row,) = pack(samples)
    whole = policy.logprobs(row)
    monkeypatch.setattr("learner.model.chosen_logprobs.LOGITS_AT_ONCE", 259 * 2)
    pieces = policy.logprobs(row)
    torch.testing.assert_close(pieces.values, whole.values)
    torch.testing.assert_close(pieces.entropy, whole.entropy)


def test_entropy_is_of_the_distribution_at_the_sampling_temperature(tmp_path):
    policy = tiny_policy(tmp_path)
    one = sample([1, 2, 3, 4], [0, 1, 1, 1], temperature=0.5)
    (row,) = pack([one])
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([one.token_ids])).logits[0, :-1] / 0.5
        expected = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(policy.logprobs(row).entropy, expected, atol=1e-4, rtol=1e-4)


def test_a_token_that_two_samples_share_is_trained_only_by_the_sample_whose_mask_includes_it():
    first = sample([1, 2, 3], [0, 1, 1], episode="a")
    second = sample([1, 2, 4], [0, 0, 1], episode="a")
    (row,) = pack([first, second])
    assert sorted(row.target.tolist()) == [2, 3, 4]


def test_every_sample_is_in_exactly_one_row_and_rows_keep_their_limit():
    samples = random_samples(groups=5)
    rows = pack(samples, RowLimits(max_tokens=70))
    assert len(rows) > 1
    assert all(len(row.token_ids) <= 70 for row in rows)
    assert sorted(i for row in rows for i in set(row.sample.tolist())) == list(range(len(samples)))


def test_the_first_token_cannot_be_trained():
    with pytest.raises(ValueError, match="first token"):
        pack([sample([1, 2], [1, 1])])


@pytest.mark.parametrize("broken", [float("nan"), float("-inf"), float("inf")])
def test_a_token_without_a_finite_logprob_is_not_trained_and_the_rest_of_its_sample_is(broken):
    (row,) = pack([sample([1, 2, 3, 4], [0, 1, 1, 1], logprobs=[0.0, -1.0, broken, -2.0])])
    assert row.target.tolist() == [2, 4]
    assert row.engine_logprobs.tolist() == [-1.0, -2.0]


def test_values_by_sample_map_to_the_tokens_of_a_row_and_back():
    samples = [sample([1, 2, 3], [0, 1, 1], episode="a"), sample([1, 5], [0, 1], episode="b")]
    (row,) = pack(samples)
    by_sample = [torch.tensor([2.0, 3.0]), torch.tensor([5.0])]
    assert row.in_order(by_sample).tolist() == row.target.tolist()
    assert {i: t.tolist() for i, t in row.by_sample(row.target).items()} == {0: [2, 3], 1: [5]}
