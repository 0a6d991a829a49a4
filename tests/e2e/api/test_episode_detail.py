"""One episode in detail: its tokens as text, its branches, and what was trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.rendering.pieces import pieces
from tests.support.live import Live, in_process, script, settings_for
from tests.support.runs.scripted import LEARNER, claim, lease, publication, reward_two
from upturn.wire import BatchAck, EpisodeView, TrainedEpisode

START = [{"role": "user", "content": "Grüß Gott, 東京"}]


async def test_tokens_are_shown_as_text_with_what_is_known_of_each(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Ärger 東京!", "More.")
    async with in_process(settings_for(tmp_path / "data", model=str(model))) as server:
        first = await server.chat(START)
        talk = [*START, first.message, {"role": "user", "content": "And?"}]
        await server.chat(talk, temperature=0)
        path = f"/v1/episodes/{first.episode}"
        answer = await server.http.get(path, params={"tokens": "true"})
        view = EpisodeView.model_validate_json(answer.content)
        plain = EpisodeView.model_validate_json((await server.http.get(path)).content)
        short = EpisodeView.model_validate_json((await server.http.get(path, params={"tokens": "false"})).content)
        read = server.parts.renderer.tokenizer.decode_all
    for turn, usual in zip(view.turns, plain.turns, strict=True):
        tokens = turn.tokens
        assert tokens is not None and usual.tokens is None
        assert tokens.ids == usual.token_ids[tokens.first :]
        assert "".join(tokens.pieces) == read(tokens.ids)
        assert tokens.sampled == [bool(one) for one in usual.loss_mask[tokens.first :]]
        assert tokens.logprobs == usual.logprobs[tokens.first :]
        assert tokens.versions == [0 if sampled else None for sampled in tokens.sampled]
        assert tokens.trained == [sampled and turn.trainable for sampled in tokens.sampled]
    assert [turn.trainable for turn in view.turns] == [True, False]
    assert "Ärger 東京!" in "".join(view.turns[0].tokens.pieces if view.turns[0].tokens else [])
    assert [(turn.extends, turn.forked, turn.temperature) for turn in view.turns] == [(None, False, 1), (0, False, 0)]
    assert [(turn.token_ids, turn.loss_mask, turn.logprobs) for turn in short.turns] == [([], [], [])] * 2
    assert short.turns[1].answer == plain.turns[1].answer


async def test_branches_name_the_turn_that_each_extends(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "One.", "Two.")
    async with in_process(settings_for(tmp_path / "data", model=str(model))) as server:
        first = await server.chat(START)
        named = {"x-episode-id": first.episode}
        for text in ("left", "right"):
            await server.chat([*START, first.message, {"role": "user", "content": text}], headers=named)
        await server.chat([{"role": "user", "content": "Anew"}], headers=named)
        view = (await server.http.get(f"/v1/episodes/{first.episode}")).json()
    assert [(turn["extends"], turn["forked"]) for turn in view["turns"]] == [
        (None, False),
        (0, False),
        (0, True),
        (None, True),
    ]


def test_a_trained_episode_shows_its_advantage_in_each_learner_step(live: Live) -> None:
    good, bad = reward_two(live)
    run_id = claim(live)
    batch = lease(live, run_id)
    version = live.client.publish(publication(live, run_id, "Better.")).version
    trained = [TrainedEpisode(episode_id=good, advantage=0.75, weight=3.0)]
    live.client.acknowledge_batch(
        batch.id, BatchAck(learner=LEARNER, state="trained", policy_version=version, episodes=trained)
    )
    (one,) = live.client.episode(good).trained
    assert (one.run_id, one.step, one.policy_version, one.advantage, one.weight) == (run_id, 0, version, 0.75, 3.0)
    assert live.client.episode(bad).trained[0].advantage is None


class Bytes:
    """A tokenizer of bytes in which 200 and above stand for words of their own."""

    def text_of(self, token_id: int) -> str:
        return self.decode_all([token_id])

    def decode_all(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    "text", ["plain", "Grüße", "東京 tower", "👩‍👩‍👧 x", "e\u0301", "\ufffd", "a\ufffd\ufffdb", ""]
)
def test_pieces_join_to_the_text(text: str) -> None:
    ids = list(text.encode())
    found = pieces(Bytes(), ids)  # type: ignore[arg-type]
    assert "".join(found) == text and len(found) == len(ids)


def test_pieces_of_ids_that_are_no_text_are_shown_anyway() -> None:
    ids = [97, 200, 201, 0xE6, 98, *[0x80] * 20, 0xE6]
    found = pieces(Bytes(), ids)  # type: ignore[arg-type]
    assert len(found) == len(ids) and found[0] == "a" and "b" in "".join(found)
