"""What is a copy of an earlier request, and what is a request of its own that happens to be alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import CHAT, InProcess, in_process, script, settings_for
from upturn.wire import EpisodeOpen

START = [{"role": "user", "content": "Start"}]
RETRY = {"x-stainless-retry-count": "1"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[InProcess]:
    model = script(tmp_path / "script", "go north", "go south", delay_s=0.002)
    async with in_process(settings_for(tmp_path / "data", model=str(model))) as server:
        yield server


async def opened(server: InProcess) -> str:
    answer = await server.http.post("/v1/episodes", json=EpisodeOpen().model_dump())
    return str(answer.json()["id"])


async def turns(server: InProcess, episode: str) -> int:
    return len((await server.http.get(f"/v1/episodes/{episode}")).json()["turns"])


async def first_in_progress(
    server: InProcess, body: list[dict[str, Any]], headers: dict[str, str]
) -> asyncio.Task[Any]:
    """Send a request and return once it is being answered."""
    first = asyncio.create_task(server.chat(body, headers))
    while not server.parts.turns.busy:
        await asyncio.sleep(0.001)
    return first


async def test_requests_that_are_alike_are_answered_one_by_one(server: InProcess) -> None:
    first = await server.chat(START)
    talk = [*START, first.message, {"role": "user", "content": "And?"}]
    answers = await asyncio.gather(*(server.chat(talk) for _ in range(8)))
    assert len({answer.turn for answer in answers}) == 8
    assert {answer.episode for answer in answers} == {first.episode}
    assert await turns(server, first.episode) == 9


async def test_alike_requests_with_keys_of_their_own_are_answered_one_by_one(server: InProcess) -> None:
    episode = await opened(server)
    headers = [{"x-episode-id": episode, "idempotency-key": f"key {number}"} for number in range(8)]
    answers = await asyncio.gather(*(server.chat(START, each) for each in headers))
    again = await asyncio.gather(*(server.chat(START, each) for each in headers))
    assert [answer.turn for answer in again] == [answer.turn for answer in answers]
    assert len({answer.turn for answer in answers}) == await turns(server, episode) == 8
    other = await asyncio.gather(
        *(server.http.post(CHAT, json={"model": "policy", "messages": [*START, *START]}, headers=h) for h in headers)
    )
    assert {answer.status_code for answer in other} == {409}


@pytest.mark.parametrize("named", [True, False])
async def test_a_retry_joins_the_call_that_it_repeats(server: InProcess, named: bool) -> None:
    headers = {"x-episode-id": await opened(server)} if named else {}
    calls = [server.chat(START, headers)] + [server.chat(START, headers | RETRY) for _ in range(3)]
    answers = await asyncio.gather(*calls)
    assert len({answer.turn for answer in answers}) == 1
    assert (await server.chat(START, headers | RETRY)).turn == answers[0].turn


async def test_a_retry_in_one_episode_is_no_copy_of_a_call_in_another(server: InProcess) -> None:
    here, there = await opened(server), await opened(server)
    first = await first_in_progress(server, START, {"x-episode-id": here})
    answers = await asyncio.gather(server.chat(START, {"x-episode-id": there} | RETRY), server.chat(START, RETRY))
    recorded = await server.chat(START, RETRY)
    assert answers[0].episode == there and await turns(server, there) == 1
    assert len({here, there, answers[1].episode}) == 3 and (await first).episode == here
    assert recorded.turn == answers[1].turn, "a recorded turn of a named episode answers the retry of an unnamed call"


async def test_one_key_with_two_bodies_at_once_refuses_one_of_them_at_once(server: InProcess) -> None:
    headers = {"idempotency-key": "same"}
    bodies = [{"model": "policy", "messages": messages} for messages in (START, [*START, *START])]
    answers = await asyncio.gather(*(server.http.post(CHAT, json=body, headers=headers) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    kept = next(body for body, answer in zip(bodies, answers, strict=True) if answer.status_code == 200)
    assert (await server.http.post(CHAT, json=kept, headers=headers)).status_code == 200


async def test_an_empty_idempotency_key_is_none(server: InProcess) -> None:
    answers = [await server.chat(START, {"idempotency-key": ""}, seed=seed) for seed in (1, 2, 2)]
    assert len({answer.turn for answer in answers}) == 3
