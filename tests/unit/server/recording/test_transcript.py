"""What is read back of an episode: all that was recorded of it, and nothing of another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.errors import NotFound
from server.recording.transcript import read_episode
from server.wiring.parts import Parts
from tests.support.in_process import chat, opened, running
from tests.support.live import script, settings_for
from upturn.wire import EpisodeOpen, RewardRequest, VersionSpan


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with running(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "One.", "Two.")))) as made:
        yield made


async def test_an_episode_is_read_as_it_was_recorded(parts: Parts) -> None:
    asked = EpisodeOpen(metadata={"a": 1}, group="g")
    episode, _ = await parts.episodes.open(asked, policy_version=0, horizon=5)
    other = await opened(parts)
    answers = []
    for index, each in enumerate((episode, other, episode)):
        (turn,) = await parts.turns.begin(each, chat(f"Question {index}"), 0)
        answers.append(await turn.answer())
    await parts.episodes.reward(episode.id, RewardRequest(value=0.5, turn=1))
    await parts.episodes.reward(episode.id, RewardRequest(value=0.25))
    await parts.episodes.reward(other.id, RewardRequest(value=7.0))
    await parts.episodes.end(episode, "closed", reason="enough")
    view = read_episode(parts.database, episode.id)
    assert (view.id, view.status, view.reason) == (episode.id, "closed", "enough")
    assert (view.horizon, view.group, view.metadata) == (5, "g", {"a": 1})
    assert view.reward == 0.75 and [reward.value for reward in view.rewards] == [0.5, 0.25]
    assert [(turn.index, turn.id) for turn in view.turns] == [(0, answers[0].turn_id), (1, answers[2].turn_id)]
    for turn, answer in zip(view.turns, (answers[0], answers[2]), strict=True):
        sampled = len(answer.token_ids)
        assert turn.token_ids[-sampled:] == answer.token_ids and turn.completion_tokens == sampled
        assert turn.loss_mask == [0] * turn.prompt_tokens + [1] * sampled
        assert turn.logprobs[: turn.prompt_tokens] == [None] * turn.prompt_tokens
        assert turn.logprobs[turn.prompt_tokens :] == pytest.approx(answer.logprobs, abs=1e-6)
        assert turn.policy_versions == [VersionSpan(version=0, first=0, tokens=sampled)]
    assert read_episode(parts.database, other.id).reward == 7.0


async def test_an_episode_that_does_not_exist_is_not_found(parts: Parts) -> None:
    with pytest.raises(NotFound, match="no episode 'ep_never'") as refused:
        read_episode(parts.database, "ep_never")
    assert refused.value.code == "episode_not_found"
