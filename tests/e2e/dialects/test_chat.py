"""Chat over a real socket with the official client: what an agent receives, and what is recorded."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from pathlib import Path

import pytest

from server.rendering.bytes_tokenizer import BytesTokenizer
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import EpisodeOpen

ASK = [{"role": "user", "content": "Hi"}]


def test_an_openai_client_gets_an_answer_and_the_record_has_its_exact_tokens(live: Live) -> None:
    raw = live.openai().chat.completions.with_raw_response.create(model="policy", messages=ASK, logprobs=True)
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello there."
    assert (answer.model, answer.system_fingerprint) == ("policy", "policy@0")
    assert raw.headers["x-policy-version"] == "0"
    view = live.client.episode(raw.headers["x-episode-id"])
    turn = view.turns[0]
    assert turn.id == raw.headers["x-turn-id"]
    sampled = [t for t, m in zip(turn.token_ids, turn.loss_mask, strict=True) if m]
    assert BytesTokenizer().decode(sampled) == "Hello there."
    assert len(sampled) == answer.usage.completion_tokens == turn.completion_tokens
    returned = [entry.logprob for entry in answer.choices[0].logprobs.content]
    recorded = [x for x in turn.logprobs if x is not None]
    assert recorded == pytest.approx(returned)
    assert turn.trainable


def test_a_stream_arrives_in_chunks_with_usage_and_is_recorded_before_its_end(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "A long enough answer.", delay_s=0.02)
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        stream = live.openai().chat.completions.create(
            model="policy", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        times, text, usage, finish = [], "", None, None
        for chunk in stream:
            times.append(time.monotonic())
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
                if choice.finish_reason:
                    episode_id = stream.response.headers["x-episode-id"]
                    assert len(live.client.episode(episode_id).turns) == 1
        assert text == "A long enough answer."
        assert finish == "stop"
        assert usage is not None and usage.completion_tokens == len(text) + 1
        assert times[-1] - times[0] > 0.2, "all chunks came at once"


def test_the_next_turn_extends_the_recorded_ids_exactly(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    api = live.openai(key=opened.key)
    first = api.chat.completions.create(model="policy", messages=ASK).choices[0].message.content
    talk = [*ASK, {"role": "assistant", "content": first}, {"role": "user", "content": "More"}]
    second = api.chat.completions.create(model="policy", messages=talk).choices[0].message.content
    assert second == "Second answer."
    one, two = live.client.episode(opened.id).turns
    assert two.token_ids[: len(one.token_ids)] == one.token_ids
    assert two.logprobs[: len(one.logprobs)] == one.logprobs
    assert two.messages == [talk[2]]
    assert BytesTokenizer().decode(two.token_ids, skip_special=False) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello there.<|im_end|>\n"
        "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\nSecond answer.<|im_end|>"
    )


def test_a_conversation_after_a_truncated_answer_continues_with_an_untrained_end_of_turn(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    api = live.openai(key=opened.key)
    cut = api.chat.completions.create(model="policy", messages=ASK, max_tokens=5).choices[0]
    assert (cut.message.content, cut.finish_reason) == ("Hello", "length")
    talk = [*ASK, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Go on"}]
    api.chat.completions.create(model="policy", messages=talk)
    turn = live.client.episode(opened.id).turns[1]
    text = BytesTokenizer().decode(turn.token_ids, skip_special=False)
    assert "Hello<|im_end|>\n<|im_start|>user\nGo on" in text
    assert sum(turn.loss_mask) == 5 + len("Second answer.") + 1


def test_an_unchanged_agent_without_headers_gets_one_episode_per_conversation(live: Live) -> None:
    api = live.openai()
    ids = set()
    for topic in ("one", "two"):
        talk = [{"role": "user", "content": topic}]
        for _ in range(2):
            raw = api.chat.completions.with_raw_response.create(model="policy", messages=talk)
            ids.add((topic, raw.headers["x-episode-id"]))
            talk += [
                {"role": "assistant", "content": raw.parse().choices[0].message.content},
                {"role": "user", "content": "and?"},
            ]
    assert len(ids) == 2
    assert len({episode for _, episode in ids}) == 2


@pytest.mark.parametrize("way", ["header", "url", "key"])
def test_an_episode_can_be_named_by_header_url_or_key(live: Live, way: str) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    api = {
        "header": live.openai(default_headers={"x-episode-id": opened.id}),
        "url": live.openai(base_url=opened.base_url),
        "key": live.openai(key=opened.key),
    }[way]
    raw = api.chat.completions.with_raw_response.create(model="policy", messages=ASK)
    assert raw.headers["x-episode-id"] == opened.id


def test_a_rewritten_history_forks_and_keeps_every_sampled_token_once(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    api = live.openai(key=opened.key)
    api.chat.completions.create(model="policy", messages=ASK)
    api.chat.completions.create(model="policy", messages=[{"role": "user", "content": "Something else"}])
    one, two = live.client.episode(opened.id).turns
    assert one.token_ids != two.token_ids[: len(one.token_ids)]


def test_a_disconnected_client_leaves_a_recorded_turn_marked_as_such(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "word " * 100, delay_s=0.02)
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        opened = live.client.open_episode(EpisodeOpen())
        stream = live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK, stream=True)
        next(iter(stream))
        stream.close()
        deadline = time.monotonic() + 10
        while not (turns := live.client.episode(opened.id).turns) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert turns[0].untrainable_reason == "disconnected"
        assert 0 < turns[0].completion_tokens < 400


def test_a_retry_of_a_broken_stream_gets_the_whole_answer(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "word " * 40, delay_s=0.02)
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        opened = live.client.open_episode(EpisodeOpen())
        api = live.openai(key=opened.key)
        broken = api.chat.completions.create(model="policy", messages=ASK, stream=True)
        next(iter(broken))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            retry = pool.submit(
                lambda: "".join(
                    chunk.choices[0].delta.content or ""
                    for chunk in api.chat.completions.create(
                        model="policy", messages=ASK, stream=True, extra_headers={"x-stainless-retry-count": "1"}
                    )
                )
            )
            episode = asyncio.run_coroutine_threadsafe(live.parts.episodes.get(opened.id), live.loop).result()
            while not any(turn.readers.count == 2 for turns in list(episode.answering.values()) for turn in turns):
                assert not retry.done()
                time.sleep(0.01)
            broken.close()
            assert retry.result() == "word " * 40
        (turn,) = live.client.episode(opened.id).turns
        assert turn.trainable


def test_an_agent_that_names_no_episode_continues_in_a_new_one_beyond_the_horizon(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "First.", "Second.", "Third.")
    with serving(settings_for(tmp_path / "data", model=str(model), default_horizon=2)) as live:
        talk, episodes = list(ASK), []
        for number in range(3):
            raw = live.openai().chat.completions.with_raw_response.create(model="policy", messages=talk)
            episodes.append(raw.headers["x-episode-id"])
            talk += [
                {"role": "assistant", "content": raw.parse().choices[0].message.content},
                {"role": "user", "content": f"Go on {number}"},
            ]
        assert episodes[0] == episodes[1] != episodes[2]
        assert live.client.episode(episodes[0]).status == "truncated"
        assert len(live.client.episode(episodes[2]).turns) == 1


def test_turns_with_sampling_that_the_learner_cannot_reproduce_are_untrainable(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    api = live.openai(key=opened.key)
    api.chat.completions.create(model="policy", messages=ASK, top_p=0.5)
    api.chat.completions.create(model="policy", messages=[*ASK, *ASK], temperature=0)
    api.chat.completions.create(model="policy", messages=ASK, presence_penalty=0.5)
    api.chat.completions.create(model="policy", messages=ASK, presence_penalty=0, logit_bias={}, frequency_penalty=0.0)
    reasons = [turn.untrainable_reason for turn in live.client.episode(opened.id).turns]
    assert reasons == ["truncated_sampling", "greedy", "changed_sampling", None]
