"""Agents that name no episode: what identifies their conversations, and what happens where nothing does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dialects import PARIS, SCHEMA
from tests.support.live import Answered, InProcess, in_process, script, settings_for

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
START = [{"role": "user", "content": "Start"}]
CLAUDE = "user_0a_account_0b_session_1b4e28ba-2fa1-11d2-883f-00000000000NUMBER"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.fixture(scope="module")
async def talking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcess]:
    directory = tmp_path_factory.mktemp("talking")
    model = script(directory / "script", "go north", "take the key", "open the door")
    async with in_process(settings_for(directory / "data", model=str(model))) as server:
        yield server


@pytest.fixture(scope="module")
async def calling(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcess]:
    directory = tmp_path_factory.mktemp("calling")
    model = script(directory / "script", f"I look.\n{PARIS}")
    async with in_process(settings_for(directory / "data", model=str(model))) as server:
        yield server


@pytest.fixture
def server(talking: InProcess, request: pytest.FixtureRequest) -> InProcess:
    """A server, called with the test's own key."""
    return talking.caller(request.node.name)


@pytest.fixture
def caller(calling: InProcess, request: pytest.FixtureRequest) -> InProcess:
    """The same, of which the policy says something and calls a tool, each time."""
    return calling.caller(request.node.name)


async def turns(server: InProcess, episode: str) -> list[dict[str, Any]]:
    view = (await server.http.get(f"/v1/episodes/{episode}")).json()
    found: list[dict[str, Any]] = view["turns"]
    return found


async def reasons(server: InProcess, *answers: Answered) -> set[str | None]:
    return {
        turn["untrainable_reason"] for a in answers for turn in await turns(server, a.episode) if turn["id"] == a.turn
    }


def result(message: dict[str, Any], text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": text}


async def test_agents_whose_conversations_begin_alike_get_an_episode_each_and_their_turns_say_it_is_a_guess(
    server: InProcess,
) -> None:
    first, second = [await server.chat(START) for _ in range(2)]
    talks = [[*START, first.message, user(f"You see {thing}.")] for thing in ("a lamp", "a door")]
    on = [await server.chat(talk) for talk in talks]
    assert {answer.episode for answer in on} == {first.episode, second.episode}
    assert await reasons(server, *on) == {"ambiguous_episode"}
    assert await reasons(server, first, second) == {None}
    further = [await server.chat([*talk, a.message, user("Go on.")]) for talk, a in zip(talks, on, strict=True)]
    assert [answer.episode for answer in further] == [answer.episode for answer in on]
    assert await reasons(server, *further) == {"ambiguous_episode"}, "the reward may still be another agent's"
    assert 'upturn_turns_total{outcome="ambiguous_episode"} 4.0' in (await server.http.get("/metrics")).text


async def test_agents_that_go_on_at_once_get_an_episode_each(server: InProcess) -> None:
    first = await asyncio.gather(*(server.chat(START) for _ in range(8)))
    talk = [*START, first[0].message, user("On.")]
    second = await asyncio.gather(*(server.chat(talk) for _ in range(8)))
    assert {answer.episode for answer in second} == {answer.episode for answer in first}
    assert len({answer.turn for answer in second}) == 8


async def test_an_agent_that_runs_again_and_again_is_never_ambiguous(server: InProcess) -> None:
    for _ in range(3):
        first = await server.chat(START)
        second = await server.chat([*START, first.message, user("You see a lamp.")])
        assert second.episode == first.episode
        assert await reasons(server, first, second) == {None}


async def test_a_failed_request_leaves_its_conversation_free_to_go_on(server: InProcess) -> None:
    first = await asyncio.gather(*(server.chat(START) for _ in range(2)))
    talk = [*START, first[0].message, user("x" * 20_000)]
    assert (
        await server.http.post("/v1/chat/completions", json={"model": "policy", "messages": talk})
    ).status_code == 400
    talk[-1] = user("On.")
    assert len({(await server.chat(talk)).episode for _ in range(2)}) == 2


async def test_ids_of_tool_calls_tell_conversations_apart_that_are_otherwise_alike(caller: InProcess) -> None:
    talks: list[list[dict[str, Any]]] = [list(START) for _ in range(4)]
    episodes: list[set[str]] = [set() for _ in talks]
    for number in range(3):
        for talk, mine in zip(talks, episodes, strict=True):
            answer = await caller.chat(talk, tools=TOOLS)
            mine.add(answer.episode)
            assert await reasons(caller, answer) == {None}
            talk += [answer.message, result(answer.message, f"rain {number}")]
    assert [len(mine) for mine in episodes] == [1] * 4 and len(set.union(*episodes)) == 4
    for (episode,) in episodes:
        found = await turns(caller, episode)
        assert len(found) == 3
        assert found[2]["token_ids"][: len(found[1]["token_ids"])] == found[1]["token_ids"]


async def test_ids_of_another_key_find_nothing(caller: InProcess) -> None:
    first = await caller.chat(START, {"authorization": "Bearer one"}, tools=TOOLS)
    talk = [*START, first.message, result(first.message, "rain")]
    other = await caller.chat(talk, {"authorization": "Bearer two"}, tools=TOOLS)
    assert other.episode != first.episode
    assert (await caller.chat(talk, {"authorization": "Bearer one"}, tools=TOOLS)).episode == first.episode


HINTS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "verifiers": ({"X-Session-ID": "rollout NUMBER"}, {}),
    "Claude Code": ({"X-Claude-Code-Session-Id": "NUMBER"}, {}),
    "Codex": ({"session-id": "NUMBER", "thread-id": "NUMBER"}, {"prompt_cache_key": "NUMBER"}),
    "an earlier Codex": ({"session_id": "NUMBER"}, {}),
    "opencode": ({"x-session-affinity": "NUMBER", "X-Session-Id": "NUMBER"}, {}),
    "opencode's own": ({"x-opencode-session": "NUMBER"}, {}),
    "Claude Code's metadata": ({}, {"metadata": {"user_id": CLAUDE}}),
    "its newer form": ({}, {"metadata": {"user_id": '{"device_id": "d", "session_id": "NUMBER"}'}}),
    "a number": ({}, {"metadata": {"session_id": "NUMBER"}}),
    "metadata": ({}, {"metadata": {"session_id": "s", "conversation_id": "cNUMBER"}}),
    "user": ({}, {"user": "user NUMBER"}),
    "cache key": ({}, {"prompt_cache_key": "NUMBER"}),
}


@pytest.mark.parametrize("client", HINTS)
async def test_what_clients_say_of_a_conversation_tells_it_apart(server: InProcess, client: str) -> None:
    headers, fields = HINTS[client]

    async def say(number: int, talk: list[dict[str, Any]]) -> Answered:
        mine = [json.loads(json.dumps(part).replace("NUMBER", str(number))) for part in (headers, fields)]
        return await server.chat(talk, mine[0], **mine[1])

    first = [await say(number, START) for number in range(2)]
    second = [await say(number, [*START, first[0].message, user(f"You see {number}.")]) for number in (1, 0)]
    assert [answer.episode for answer in second] == [first[1].episode, first[0].episode] and len(
        {answer.episode for answer in first}
    ) == 2
    assert await reasons(server, *first, *second) == {None}


async def test_the_calls_of_one_session_belong_to_one_episode_whatever_they_say(server: InProcess) -> None:
    session = {"X-Session-ID": "one"}
    answers = await asyncio.gather(*(server.chat([user(f"task {n}")], session) for n in range(4)))
    answers.append(await server.chat([{"role": "system", "content": "Summary: ..."}, user("Go on.")], session))
    assert len({answer.episode for answer in answers}) == 1
    assert len(await turns(server, answers[0].episode)) == 5
    await server.http.post(f"/v1/episodes/{answers[0].episode}/close", json={})
    later = await server.chat(START, session)
    assert later.episode != answers[0].episode
    assert (await server.http.get(f"/v1/episodes/{later.episode}")).json()["continues"] == answers[0].episode


def without_text(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": None}


def as_text(message: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": f"Calling tools:\n{message['tool_calls']}"}


EXTRA = {
    "name": "agent",
    "provider_specific_fields": {"x": 1},
    "reasoning_details": [{"type": "text"}],
    "thinking_blocks": [{"thinking": "Hm."}],
    "prefix": False,
    "audio": None,
    "annotations": [{"x": 1}],
    "function_call": None,
    "timestamp": 12.5,
}


async def test_keys_that_are_not_rendered_change_nothing(server: InProcess) -> None:
    first = await server.chat(START)
    talk = list(START)
    for key, value in EXTRA.items():
        talk = [*START, {**first.message, key: value}, user(f"About {key}")]
        answer = await server.chat(talk)
        assert answer.episode == first.episode
        whole, of_first = (await turns(server, first.episode))[-1], (await turns(server, first.episode))[0]
        assert whole["token_ids"][: len(of_first["token_ids"])] == of_first["token_ids"], key


@pytest.mark.parametrize("edit", [without_text, as_text])
async def test_an_answer_that_a_framework_rewrites_stays_in_its_episode(caller: InProcess, edit: Any) -> None:
    first, twin = [await caller.chat(START, tools=TOOLS) for _ in range(2)]
    for answer in (twin, first):
        talk = [*START, edit(answer.message), user("Observation: rain")]
        assert (await caller.chat(talk, tools=TOOLS)).episode == answer.episode


async def test_an_answer_that_quotes_a_call_of_another_conversation_stays_in_its_own(caller: InProcess) -> None:
    quoted = await caller.chat(START, tools=TOOLS)
    log = {"role": "assistant", "content": f"The log says {quoted.message['tool_calls'][0]['id']}."}
    other = [user("Read the log."), log, user("And then?")]
    answer = await caller.chat(other, tools=TOOLS)
    assert answer.episode != quoted.episode
    on = await caller.chat([*other, answer.message, result(answer.message, "rain")], tools=TOOLS)
    assert on.episode == answer.episode
    assert await reasons(caller, answer, on) == {None}
    mixed = [*START, quoted.message, result(quoted.message, "rain"), log, user("And then?")]
    assert (await caller.chat(mixed, tools=TOOLS)).episode == quoted.episode, "its own call came back"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"user": "a", "safety_identifier": "b"}, {"user": "a\nb"}),
        ({"user": "a", "safety_identifier": "b"}, {"user": '["a", "b", ""]'}),
        ({"user": "a", "safety_identifier": "b"}, {"user": "b", "safety_identifier": "a"}),
    ],
)
async def test_users_whose_names_look_alike_when_joined_are_different_ones(
    server: InProcess, one: dict[str, str], two: dict[str, str]
) -> None:
    first = await server.chat(START, **one)
    talk = [*START, first.message, user("On.")]
    assert (await server.chat(talk, **two)).episode != first.episode
    assert (await server.chat(talk, **one)).episode == first.episode


@pytest.mark.parametrize("tools", [None, [*TOOLS, {**TOOLS[0], "function": {"name": "another"}}]])
async def test_a_call_with_other_tools_stays_in_its_episode(server: InProcess, tools: Any) -> None:
    first = await server.chat(START, tools=TOOLS)
    more = {} if tools is None else {"tools": tools}
    on = await server.chat([*START, first.message, user("And?")], **more)
    back = await server.chat([*START, first.message, user("And then?")], tools=TOOLS)
    assert first.episode == on.episode == back.episode


async def test_a_clock_in_the_system_prompt_makes_no_new_episodes(server: InProcess) -> None:
    talk, episodes = list(START), set()
    for minute in range(3):
        answer = await server.chat([{"role": "system", "content": f"It is 12:{minute:02}."}, *talk])
        episodes.add(answer.episode)
        talk += [answer.message, user("Go on.")]
    assert len(episodes) == 1


async def test_equal_answers_that_come_back_with_an_addition_get_an_episode_each_and_say_it_is_a_guess(
    server: InProcess,
) -> None:
    first = [await server.chat(START) for _ in range(2)]
    added = {"role": "assistant", "content": "go north</code>"}
    talks = [[*START, added, user(f"You see {thing}.")] for thing in ("a lamp", "a door")]
    second = [await server.chat(talk) for talk in talks]
    assert {answer.episode for answer in second} == {answer.episode for answer in first}
    assert await reasons(server, *second) == {"ambiguous_episode"}
    more = {"role": "assistant", "content": second[0].message["content"] + "</code>"}
    third = [await server.chat([*talk, more, user("Go on.")]) for talk in talks]
    assert [answer.episode for answer in third] == [answer.episode for answer in second]
    assert await reasons(server, *third) == {"ambiguous_episode"}, "the reward may still be another agent's"


async def test_an_agent_that_adds_to_its_answers_is_not_ambiguous_when_it_runs_again(server: InProcess) -> None:
    for _ in range(3):
        first = await server.chat(START)
        second = await server.chat([*START, {"role": "assistant", "content": "go north</code>"}, user("And?")])
        assert second.episode == first.episode
        assert await reasons(server, first, second) == {None}


@pytest.mark.parametrize("kept", ["go nor", "go north</code>", "  go  north\n"])
async def test_an_answer_of_which_a_part_or_more_comes_back_stays_in_its_episode(server: InProcess, kept: str) -> None:
    first = await server.chat(START)
    talk = [*START, {"role": "assistant", "content": kept}, user("And?")]
    assert (await server.chat(talk)).episode == first.episode


async def test_an_answer_that_comes_back_with_a_report_of_its_code_stays_in_its_episode(tmp_path: Path) -> None:
    code = 'rain = weather("Paris")\nprint(f"It is {rain}.\\n")'
    model = script(tmp_path / "script", f"I look.\n<code>\n{code}\n</code>", f"Again.\n<code>\n{code}\n", "It rains.")
    async with in_process(settings_for(tmp_path / "data", model=str(model))) as server:
        talk, turns = list(START), []
        for number in range(3):
            turns.append(await server.chat(talk))
            report = f"Calling tools:\n{[{'id': f'call_{number}', 'name': 'python_interpreter', 'arguments': code}]}"
            said = turns[-1].message["content"].removesuffix("</code>") + "</code>\n" + report
            talk += [{"role": "assistant", "content": said}, user("Observation: rain")]
        assert len({turn.episode for turn in turns}) == 1
        assert await reasons(server, turns[0]) == {None}
        other = [*START, {"role": "assistant", "content": turns[0].message["content"] + "Now " * 40}, user("And?")]
        assert (await server.chat(other)).episode != turns[0].episode


async def test_a_conversation_that_returns_after_its_end_continues_in_a_new_episode(caller: InProcess) -> None:
    first = await caller.chat(START, tools=TOOLS)
    await caller.http.post(f"/v1/episodes/{first.episode}/close", json={})
    talk = [*START, first.message, result(first.message, "rain")]
    second = await caller.chat(talk, tools=TOOLS)
    third = await caller.chat([*talk, second.message, result(second.message, "sun")], tools=TOOLS)
    assert second.episode == third.episode != first.episode
    assert (await caller.http.get(f"/v1/episodes/{second.episode}")).json()["continues"] == first.episode


async def test_a_rewritten_conversation_says_it_is_a_guess_which_of_several_continuations_it_is(
    caller: InProcess,
) -> None:
    first = await caller.chat(START, tools=TOOLS)
    await caller.http.post(f"/v1/episodes/{first.episode}/close", json={})
    talk = [*START, first.message, result(first.message, "rain")]
    on = await asyncio.gather(*(caller.chat(talk, tools=TOOLS) for _ in range(2)))
    assert on[0].episode != on[1].episode
    rewritten = await caller.chat([*talk, {"role": "assistant", "content": "A summary."}, user("And?")], tools=TOOLS)
    assert rewritten.episode in {answer.episode for answer in on}
    assert await reasons(caller, rewritten) == {"ambiguous_episode"}
    assert await reasons(caller, *on) == {None}


async def test_a_conversation_that_outgrows_one_episode_keeps_the_next_one(tmp_path: Path) -> None:
    model = script(tmp_path / "script", f"I look.\n{PARIS}", "It rains.", "It snows.", "It hails.")
    async with in_process(settings_for(tmp_path / "data", model=str(model), default_horizon=2)) as server:
        talk, episodes = list(START), []
        for number in range(4):
            answer = await server.chat(talk, tools=TOOLS)
            episodes.append(answer.episode)
            talk += [answer.message, result(answer.message, "rain") if number == 0 else user("And?")]
        assert episodes[0] == episodes[1] != episodes[2] == episodes[3]


async def test_a_response_id_continues_its_own_conversation(server: InProcess) -> None:
    first = [await server.post("/v1/responses", {"model": "policy", "input": "Start"}) for _ in range(2)]
    for answer in first:
        body = {"model": "policy", "input": "And?", "previous_response_id": answer.body["id"]}
        on = await server.post("/v1/responses", body)
        assert on.episode == answer.episode
        assert await reasons(server, on) == {None}


async def test_ids_of_output_items_tell_conversations_apart(server: InProcess) -> None:
    first = [await server.post("/v1/responses", {"model": "policy", "input": "Start"}) for _ in range(2)]
    for answer in first:
        sent = [user("Start"), *answer.body["output"], user("And?")]
        on = await server.post("/v1/responses", {"model": "policy", "input": sent})
        assert on.episode == answer.episode
        assert await reasons(server, on) == {None}


async def test_tool_calls_of_anthropics_api_tell_conversations_apart(caller: InProcess) -> None:
    body = {"model": "policy", "max_tokens": 500, "tools": [{"name": "weather", "input_schema": SCHEMA}]}
    first = [await caller.post("/v1/messages", {**body, "messages": START}) for _ in range(2)]
    for answer in first:
        call = answer.body["content"][-1]
        done = {"type": "tool_result", "tool_use_id": call["id"], "content": "rain"}
        talk = [*START, {"role": "assistant", "content": [call]}, {"role": "user", "content": [done]}]
        on = await caller.post("/v1/messages", {**body, "messages": talk})
        assert on.episode == answer.episode
        assert await reasons(caller, on) == {None}


async def test_a_session_that_outgrows_one_episode_goes_on_in_the_next_one(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "First.", "Second.")
    async with in_process(settings_for(tmp_path / "data", model=str(model), default_horizon=2)) as server:
        session = {"X-Session-ID": "long"}
        first = [await server.chat([user(f"task {number}")], session) for number in range(2)]
        later = await asyncio.gather(*(server.chat([user(f"more {number}")], session) for number in range(2)))
        assert len({answer.episode for answer in first}) == len({answer.episode for answer in later}) == 1
        assert first[0].episode != later[0].episode
        view = (await server.http.get(f"/v1/episodes/{later[0].episode}")).json()
        assert view["continues"] == first[0].episode
