"""Both Python clients against a live server: blocks of episodes, pages, progress, and lost answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from server.engines.settings import EngineSettings
from tests.support.live import Live, script, serving, settings_for
from upturn.client import AsyncClient, Client, UpturnAPIError
from upturn.wire import EpisodeOpen, PlayRequest, RewardRequest

ASK: Any = [{"role": "user", "content": "Say yes or no."}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server that answers yes."""
    home = tmp_path_factory.mktemp("clients")
    engine = EngineSettings(kind="scripted", context_tokens=32_768)
    with serving(settings_for(home / "data", model=str(script(home / "script", "Yes.")), engine=engine)) as live:
        yield live


def test_a_block_binds_its_agent_to_the_episode_and_closes_it(server: Live) -> None:
    with server.client.episode(metadata={"customer": "a"}, group="g") as episode:
        agent = episode.openai(max_retries=0)
        first = agent.chat.completions.create(model="policy", messages=ASK)
        again = agent.chat.completions.create(model="policy", messages=[{"role": "user", "content": "Another one."}])
        episode.reward(0.25, turn=1, source="judge")
        assert episode.transcript().status == "open"
    server.client.reward(first.id, 0.5)
    server.client.reward(again.id, RewardRequest(value=0.125, source="survey"))
    read = server.client.transcript(episode.id)
    assert (read.status, read.reason, len(read.turns), read.metadata) == ("closed", None, 2, {"customer": "a"})
    assert [(reward.value, reward.turn, reward.source) for reward in read.rewards] == [
        (0.25, 1, "judge"),
        (0.5, None, "user"),
        (0.125, None, "survey"),
    ]
    assert server.client.episode(episode.id) == read
    assert agent.is_closed()


async def test_an_awaited_block_does_the_same(server: Live) -> None:
    async with AsyncClient(server.url) as client:

        async def ask(number: int) -> str:
            async with client.episode(group=f"awaited-{number}") as episode:
                agent = episode.openai()
                answer = await agent.chat.completions.create(model="policy", messages=ASK)
                await episode.reward(float(number))
            await client.reward(answer.id, 0.5, source="later")
            return episode.id

        ids = await asyncio.gather(*(ask(number) for number in range(5)))
        assert len(set(ids)) == 5
        for number, episode_id in enumerate(ids):
            read = await client.episode(episode_id)
            assert read == await client.transcript(episode_id)
            assert (read.status, len(read.turns), read.reward) == ("closed", 1, number + 0.5)
        listed = [episode.id async for episode in client.iter_episodes(group="awaited-3", limit=1)]
        assert listed == [ids[3]]


def test_a_block_that_fails_closes_its_episode_and_names_the_error_without_its_text(server: Live) -> None:
    with pytest.raises(ValueError, match="secret"), server.client.episode() as episode:
        episode.openai().chat.completions.create(model="policy", messages=ASK)
        raise ValueError("secret")
    read = server.client.transcript(episode.id)
    assert (read.status, read.reason) == ("closed", "the agent failed: ValueError")


def test_an_error_of_the_block_is_raised_even_if_the_episode_cannot_be_closed(server: Live) -> None:
    with pytest.raises(ValueError, match="first") as caught, server.client.episode() as episode:
        server.client.erase_episode(episode.id)
        raise ValueError("first")
    assert caught.value.__notes__[0].startswith(f"episode {episode.id} stays open: 404")


def test_an_episode_is_open_only_in_its_block(server: Live) -> None:
    with pytest.raises(RuntimeError, match=r"with client\.episode"):
        server.client.episode().openai()


def test_an_environment_is_played_step_by_step(server: Live) -> None:
    task = next(server.client.iter_tasks("textcraft", "train"))
    with server.client.episode(environment="textcraft", task=task, horizon=2) as episode:
        assert episode.messages and episode.messages[-1].role == "user"
        agent, result = episode.openai(), None
        for _ in range(2):
            agent.chat.completions.create(model="policy", messages=ASK)
            result = episode.step("Thought: look\nAction: inventory")
    assert result is not None and result.truncated
    read = server.client.transcript(episode.id)
    assert (read.status, len(read.steps), len(read.turns)) == ("truncated", 2, 2)


async def test_pages_are_iterated_to_their_end_by_both_clients(server: Live) -> None:
    made = [server.client.open_episode(EpisodeOpen(group="pages")).id for _ in range(7)]
    listed = [episode.id for episode in server.client.iter_episodes(group="pages", limit=3)]
    assert listed == sorted(made, reverse=True)
    tasks = server.client.tasks("textcraft", "train")
    assert list(server.client.iter_tasks("textcraft", "train")) == tasks.tasks and len(tasks.tasks) == tasks.total
    async with AsyncClient(server.url) as client:
        assert [episode.id async for episode in client.iter_episodes(group="pages", limit=3)] == listed
        assert [task async for task in client.iter_tasks("textcraft", "train")] == tasks.tasks


async def test_progress_is_iterated_until_the_play_has_ended(server: Live) -> None:
    tasks = server.client.tasks("textcraft", "test").tasks[:2]
    request = PlayRequest(environment="textcraft", tasks=tasks, horizon=20, agent="oracle", trainable=False)
    views = list(server.client.follow_play(server.client.start_play(request).id))
    assert [view.state for view in views[:-1]] == ["running"] * (len(views) - 1)
    assert (views[-1].state, views[-1].success_rate) == ("done", 1.0)
    async with AsyncClient(server.url) as client:
        seen = []
        started = await client.start_play(request)
        ended = await client.wait_for_play(started.id, on_progress=seen.append)
        assert ended.state == "done" and seen[-1] == ended
        assert [view.state async for view in client.follow_play(started.id)] == ["done"]


class Losing(httpx2.HTTPTransport):
    """The network, which loses the first answer to each kind of request after the server has given it."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request; lose the answer."""
        answer = super().handle_request(request)
        what = f"{request.method} {request.url.path}"
        if what in self.lost or request.url.path == "/v1/episodes":
            return answer
        answer.read()
        self.lost.append(what)
        raise httpx2.ReadError("lost", request=request)


def test_a_reward_whose_answer_is_lost_is_recorded_once_and_a_step_is_taken_once(server: Live) -> None:
    task = next(server.client.iter_tasks("textcraft", "train"))
    with Client(server.url, transport=Losing(), sleep=lambda _: None) as client:
        opened = client.open_episode(EpisodeOpen(environment="textcraft", task=task, horizon=5))
        client.reward(opened.id, 0.5)
        with pytest.raises(UpturnAPIError, match="lost"):
            client.step(opened.id, "Action: inventory")
        read = client.close_episode(opened.id)
    assert (len(read.rewards), len(read.steps), read.status) == (1, 1, "closed")
