"""A model of a known family behind the API: exact continuation of recorded turns, and template options."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from server.engines.settings import EngineSettings
from server.rendering.tokenizer import FileTokenizer
from tests.support.family_models import QWEN3, make_family_model
from tests.support.live import Live, serving, settings_for
from upturn.wire import EpisodeOpen

ASK = [{"role": "user", "content": "How is it in Paris?"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
OFF = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server with a random Llama that has Qwen3's tokens and template."""
    directory = make_family_model(tmp_path_factory.mktemp("qwen3"), QWEN3)
    tokenizer = FileTokenizer(directory / "tokenizer.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=tokenizer.size,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=1,
                num_key_value_heads=1,
                max_position_embeddings=4096,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=tokenizer.id_of("<|im_end|>"),
            )
        ).save_pretrained(directory)
    engine = EngineSettings(kind="local", dtype="float32", context_tokens=4096)
    with serving(settings_for(tmp_path_factory.mktemp("data"), model=str(directory), engine=engine)) as live:
        yield live


def ask(live: Live, key: str, conversation: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Request a streamed answer and assemble it as an agent keeps it."""
    content = ""
    for chunk in live.openai(key=key).chat.completions.create(
        model="policy", messages=conversation, tools=[WEATHER], stream=True, max_tokens=24, seed=1, **more
    ):
        content += chunk.choices[0].delta.content or ""
    return {"role": "assistant", "content": content}


def test_turns_of_a_known_family_continue_exactly_the_recorded_ids(qwen: Live) -> None:
    assert qwen.parts.renderer.family.name == "qwen3"
    opened = qwen.client.open_episode(EpisodeOpen())
    conversation: list[dict[str, Any]] = list(ASK)
    for number in range(3):
        conversation += [ask(qwen, opened.key, conversation), {"role": "user", "content": f"And {number}?"}]
    turns = qwen.client.episode(opened.id).turns
    for before, after in itertools.pairwise(turns):
        assert after.token_ids[: len(before.token_ids)] == before.token_ids
    assert [turn.messages for turn in turns] == [ASK, *([conversation[at]] for at in (2, 4))]


def test_different_template_options_fork_and_the_same_options_do_not(qwen: Live) -> None:
    opened = qwen.client.open_episode(EpisodeOpen())
    conversation = [*ASK, ask(qwen, opened.key, ASK, **OFF), {"role": "user", "content": "And Rome?"}]
    ask(qwen, opened.key, conversation, **OFF)
    ask(qwen, opened.key, conversation)
    one, same, other = (turn.token_ids for turn in qwen.client.episode(opened.id).turns)
    assert same[: len(one)] == one and other[: len(one)] != one
    empty = "<think>\n\n</think>\n\n"
    decode = qwen.parts.renderer.tokenizer.decode
    assert decode(same).count(empty) == 2 and empty not in decode(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tone": "warm"}, "does not know tone; it knows enable_thinking"),
        ({"enable_thinking": "never"}, "enable_thinking"),
        ({"enable_thinking": "x" * 5000}, "4096"),
    ],
)
def test_invalid_template_options_are_refused(qwen: Live, options: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        qwen.openai().chat.completions.create(
            model="policy", messages=ASK, extra_body={"chat_template_kwargs": options}
        )


def test_an_agent_without_an_episode_id_continues_under_its_template_options(qwen: Live) -> None:
    def ask_unnamed(conversation: list[dict[str, Any]], **more: Any) -> tuple[str, dict[str, Any]]:
        raw = qwen.openai(key="sk-unnamed").chat.completions.with_raw_response.create(
            model="policy", messages=conversation, max_tokens=8, seed=3, **more
        )
        return raw.headers["x-episode-id"], {"role": "assistant", "content": raw.parse().choices[0].message.content}

    episode, answer = ask_unnamed(ASK, **OFF)
    conversation = [*ASK, answer, {"role": "user", "content": "And Rome?"}]
    assert ask_unnamed(conversation, **OFF)[0] == episode
    assert ask_unnamed(conversation)[0] == episode, "other options make no new episode"
    first, second, other = qwen.client.episode(episode).turns
    assert second.token_ids[: len(first.token_ids)] == first.token_ids
    assert other.token_ids[: len(first.token_ids)] != first.token_ids, "it is a fork"
