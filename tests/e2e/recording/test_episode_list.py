"""Finding episodes, and rewarding them, without their ids: many frameworks hide the headers of an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.recording.keys import hash_of
from server.recording.reading import episode_list
from tests.support.live import InProcess, in_process, script, settings_for
from upturn.wire import EpisodeOpen

START = [{"role": "user", "content": "Grüß Gott, 100 %"}]
ME, OTHER = "Bearer me", "Bearer other"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcess]:
    directory = tmp_path_factory.mktemp("list")
    model = script(directory / "script", "First.", "Second.")
    async with in_process(settings_for(directory / "data", model=str(model))) as server:
        yield server


async def opened(server: InProcess, **about: Any) -> str:
    body = EpisodeOpen.model_validate(about).model_dump()
    made: str = (await server.http.post("/v1/episodes", json=body)).json()["id"]
    return made


async def listed(server: InProcess, **filters: Any) -> list[str]:
    answer = await server.http.get("/v1/episodes", params={"limit": 100, **filters})
    assert answer.status_code == 200, answer.text
    return [episode["id"] for episode in answer.json()["data"]]


async def test_every_filter_finds_its_episodes(server: InProcess) -> None:
    mine, theirs = server.caller("me"), server.caller("other")
    said = (await mine.chat(START)).episode
    grouped = await opened(mine, group="g")
    marked = await opened(theirs, metadata={"user": "ann", "try": 2, "live": True, "note": "a=b"})
    await mine.http.post(f"/v1/episodes/{grouped}/close", json={})
    everything = [marked, grouped, said]
    assert [e for e in await listed(server) if e in everything] == everything
    assert await listed(mine, key="me") == [grouped, said]
    assert await listed(theirs, key="me") == [marked]
    assert await listed(server, group="g") == [grouped] == await listed(server, status="closed")
    assert set(await listed(server, status=["open", "error"])) == {marked, said}
    assert await listed(server, text="grüß gott") == [said] == await listed(server, text="first.")
    assert await listed(server, text="100 %") == [said]
    assert await listed(server, text="gott grüß") == await listed(server, environment="textcraft") == []
    for pair in ("user=ann", "try=2", "live=true", "note=a=b"):
        assert await listed(server, metadata=pair) == [marked], pair
    assert await listed(server, metadata=["user=ann", "try=3"]) == await listed(server, metadata="live=1") == []
    whole = {e["id"]: e for e in (await server.http.get("/v1/episodes")).json()["data"]}
    assert (whole[said]["turns"], whole[said]["reward"], whole[grouped]["last_turn_at"]) == (1, None, None)
    at = whole[grouped]["opened_at"]
    assert await listed(server, opened_from=at) == [marked, grouped]
    assert await listed(server, opened_before=at) == [said]


async def test_pages_continue_where_the_last_one_ended_whatever_opens_meanwhile(server: InProcess) -> None:
    caller = server.caller("pages")
    made = [await opened(caller) for _ in range(5)]
    seen, after = [], None
    while True:
        params = {"key": "me", "limit": 2} | ({"after": after} if after else {})
        page = (await caller.http.get("/v1/episodes", params=params)).json()
        seen += [episode["id"] for episode in page["data"]]
        await opened(caller)
        if (after := page["next"]) is None:
            break
    assert seen == made[::-1]


async def test_a_search_for_text_without_the_index_continues_page_by_page(
    server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = server.caller("search")
    said = [(await caller.chat([{"role": "user", "content": f"Number {number}"}])).episode for number in range(5)]
    monkeypatch.setattr(episode_list, "SEARCHED", 2)
    monkeypatch.setattr(episode_list.Filter, "searches", False)
    params = {"key": "me", "text": "number 0"}
    pages = [(await caller.http.get("/v1/episodes", params=params)).json()]
    while pages[-1]["next"] is not None:
        pages.append((await caller.http.get("/v1/episodes", params=params | {"after": pages[-1]["next"]})).json())
    assert [episode["id"] for page in pages for episode in page["data"]] == [said[0]]
    assert len(pages) == 3


@pytest.mark.parametrize(
    "bad",
    [
        {"limit": 0},
        {"limit": 101},
        {"status": "done"},
        {"metadata": "x"},
        {"opened_from": "nan"},
        {"text": ""},
        {"group": "\0"},
    ],
)
async def test_a_wrong_filter_is_refused(server: InProcess, bad: dict[str, Any]) -> None:
    answer = await server.http.get("/v1/episodes", params=bad)
    assert answer.status_code in (400, 422) and answer.json()["error"]["type"] == "invalid_request_error"


async def test_a_reward_by_any_id_of_an_answer_reaches_its_episode(server: InProcess) -> None:
    chat = await server.chat(START)
    response = await server.post("/v1/responses", {"model": "policy", "input": "Hi"})
    message = await server.post("/v1/messages", {"model": "policy", "max_tokens": 99, "messages": START})
    text = await server.post("/v1/completions", {"model": "policy", "prompt": "Once"})
    for answer, name in (
        (chat, chat.body["id"]),
        (response, response.body["id"]),
        (response, response.body["output"][0]["id"]),
        (message, message.body["id"]),
        (text, text.body["id"]),
        (chat, chat.turn),
        (chat, chat.episode),
    ):
        given = await server.http.post("/v1/rewards", json={"id": name, "value": 0.5, "key": name})
        assert (given.status_code, given.json()["episode_id"]) == (201, answer.episode), name
    view = (await server.http.get(f"/v1/episodes/{chat.episode}")).json()
    assert view["reward"] == 1.5


@pytest.mark.parametrize("name", ["chatcmpl-turn_" + "0" * 24, "resp_nothing", "ep_none", "turn_\u0000", "x" * 200])
async def test_a_reward_by_an_unknown_id_is_not_found(server: InProcess, name: str) -> None:
    given = await server.http.post("/v1/rewards", json={"id": name, "value": 1})
    assert (given.status_code, given.json()["error"]["code"]) == (404, "episode_not_found")


async def test_an_agent_lists_and_rewards_only_its_own(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Yes.")), keys="required")
    async with in_process(settings) as server:
        own = server.parts.callers.own_key("test", "admin")
        admin = {"authorization": f"Bearer {own}"}
        keys = [
            (await server.http.post("/v1/keys", json={"name": n, "scopes": ["agent", "reward"]}, headers=admin)).json()
            for n in ("a", "b")
        ]
        a, b = (server.caller(key["key"]) for key in keys)
        answer = await a.chat(START)
        assert await listed(a) == [answer.episode] and await listed(b) == await listed(b, key="a") == []
        assert (await b.http.post("/v1/rewards", json={"id": answer.body["id"], "value": 1})).status_code == 404
        assert (await a.http.post("/v1/rewards", json={"id": answer.body["id"], "value": 1})).status_code == 201
        for key in ("a", keys[0]["id"]):
            found = await server.http.get("/v1/episodes", params={"key": key}, headers=admin)
            assert [episode["id"] for episode in found.json()["data"]] == [answer.episode]
        assert hash_of(keys[0]["key"]) not in found.text
