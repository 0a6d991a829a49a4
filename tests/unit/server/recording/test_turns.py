"""Turns that end late, fail, or come together: what is recorded, and what counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.api.dialects.call import Call
from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.conversation import Conversations
from server.engines.protocol import SamplingParams
from server.errors import Conflict, EngineError, HorizonReached, Unavailable, UpturnError
from server.recording.turn_request import TurnRequest
from server.store.tables import EpisodeRow, NodeRow, TurnRow
from server.wiring.parts import Parts
from server.wiring.services import services
from tests.support.in_process import Held, chat, opened, rows, running
from tests.support.live import script, settings_for
from upturn.wire import EpisodeOpen


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with running(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "One.", "Two.")))) as made:
        yield made


async def take(parts: Parts, episode: Any, request: TurnRequest) -> list[Any]:
    """Take the turns of a request; return the answers, or the error of each."""
    turns = await parts.turns.begin(episode, request, episode.policy_version)
    return await asyncio.gather(*(turn.answer() for turn in turns), return_exceptions=True)


@pytest.mark.parametrize("end", ["closed", "truncated", "erased"])
async def test_a_turn_that_outlasts_its_episode_is_refused_and_leaves_no_row(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    episode, held = await opened(parts), Held(parts, monkeypatch)
    turns = await parts.turns.begin(episode, chat("Hi"), 0)
    await held.began.wait()
    if end == "erased":
        await parts.privacy.erase(episode.id)
    else:
        await parts.episodes.end(episode, end)
    held.go.set()
    with pytest.raises(Conflict, match=f"has ended.*{end}") as refused:
        await turns[0].answer()
    assert refused.value.code == "episode_ended"
    assert not rows(parts, TurnRow) and not rows(parts, NodeRow)
    assert [row.status for row in rows(parts, EpisodeRow)] == ([] if end == "erased" else [end])


async def test_a_late_turn_costs_no_other_turn_of_the_same_commit(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, other = await opened(parts), await opened(parts)
    held = Held(parts, monkeypatch)
    late = await parts.turns.begin(ended, chat("Hi"), 0)
    good = await parts.turns.begin(other, chat("Hi"), 0)
    await parts.episodes.end(ended, "closed")
    held.go.set()
    results = await asyncio.gather(late[0].answer(), good[0].answer(), return_exceptions=True)
    assert isinstance(results[0], Conflict) and results[1].text == "One."
    assert [row.episode_id for row in rows(parts, TurnRow)] == [other.id]


async def test_turns_that_continue_conversations_and_wait_for_the_writer_together_are_written_together(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations: Any = services(parts)[Conversations]
    said = [f"I am number {number}" for number in range(5)]
    for text in said:
        await (await conversations.begin(call(), body(text))).answers()
    began, go, waiting, write = threading.Event(), threading.Event(), 0, parts.writer.write
    held = parts.writer.submit(lambda session: (began.set(), go.wait(10))[1])
    assert await asyncio.to_thread(began.wait, 10)  # Otherwise the writer may take some of the turns with it.

    def counted(work: Any) -> Any:
        nonlocal waiting
        waiting += 1
        return write(work)

    monkeypatch.setattr(parts.writer, "write", counted)
    answers = [(await conversations.begin(call(), body(text, "One.", "more"))).answers() for text in said]
    while waiting < len(said) or parts.writer._gathered:
        await asyncio.sleep(0)
    inserts: list[str] = []

    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        inserts.extend([statement] if statement.startswith("INSERT INTO turn ") else [])

    sa.event.listen(parts.database.writer, "before_cursor_execute", executed)
    go.set()
    assert held.result()
    assert [answer.text for (answer,) in await asyncio.gather(*answers)] == ["Two."] * len(said)
    assert len(inserts) == 1
    assert [row.forked for row in rows(parts, TurnRow)] == [False] * 2 * len(said)


async def test_a_request_beyond_the_horizon_loses_no_turn_in_progress(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations: Any = services(parts)[Conversations]
    episode = await opened(parts, horizon=1)
    held = Held(parts, monkeypatch)
    first = await conversations.begin(call(episode.id), body("Hi"))
    with pytest.raises(HorizonReached):
        await conversations.begin(call(episode.id), body("Hello"))
    assert episode.ended is None and episode.ending is None
    held.go.set()
    assert [answer.text for answer in await first.answers()] == ["One."]
    assert len(rows(parts, TurnRow)) == 1
    with pytest.raises(HorizonReached):
        await conversations.begin(call(episode.id), body("Hello"))
    (row,) = rows(parts, EpisodeRow)
    assert (row.status, row.reason) == ("truncated", "horizon")
    with pytest.raises(Conflict, match="has ended"):
        await conversations.begin(call(episode.id), body("Hello"))


async def test_an_agent_without_episodes_continues_in_a_new_one_while_the_last_turn_is_in_progress(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations: Any = services(parts)[Conversations]
    object.__setattr__(conversations, "default_horizon", 2)
    await (await conversations.begin(call(), body("Hi"))).answers()
    held = Held(parts, monkeypatch)
    last = await conversations.begin(call(), body("Hi", "One.", "more"))
    beyond = await conversations.begin(call(), body("Hi", "One.", "other"))
    held.go.set()
    await asyncio.gather(last.answers(), beyond.answers())
    first, second = rows(parts, EpisodeRow)
    assert [row.episode_id for row in rows(parts, TurnRow)].count(first.id) == 2
    assert [row.episode_id for row in rows(parts, TurnRow)].count(second.id) == 1
    assert first.status == "open", "its last turn was still on its way"


async def test_an_episode_is_recorded_with_its_next_turn_if_the_write_of_its_first_one_fails(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode, _ = await parts.episodes.open(EpisodeOpen(group="g"), policy_version=0, horizon=1)
    real, tries = parts.writer.write, []

    async def write(work: Any) -> Any:
        tries.append(work)
        if len(tries) == 1:
            raise Unavailable("the database is away")
        return await real(work)

    monkeypatch.setattr(parts.writer, "write", write)
    (failed,) = await take(parts, episode, chat("Hi"))
    assert isinstance(failed, Unavailable)
    assert not rows(parts, EpisodeRow) and not rows(parts, TurnRow)
    assert (episode.turns, episode.turns_left, episode.newest, episode.tails) == (0, 1, None, {})
    (answer,) = await take(parts, episode, chat("Hi"))
    assert answer.text == "One."
    (row,) = rows(parts, EpisodeRow)
    assert (row.id, row.group_key) == (episode.id, "g")
    assert len(rows(parts, TurnRow)) == 1 and len(rows(parts, NodeRow)) == 2


async def test_an_episode_whose_row_could_not_be_written_ahead_is_forgotten(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode, _ = await parts.episodes.open(EpisodeOpen(), policy_version=0, horizon=1)

    def begin(work: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        loop.call_soon(future.set_exception, Unavailable("the database is away"))
        return future

    monkeypatch.setattr(parts.writer, "begin", begin)
    episode.begin_writing()
    with pytest.raises(Unavailable):
        await episode.opened()
    monkeypatch.undo()
    assert episode.ended == "error"
    with pytest.raises(UpturnError, match="no episode"):
        await parts.episodes.get(episode.id)


async def test_a_failed_engine_ends_the_episode_and_records_no_turn(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = await opened(parts)

    async def generate(*_: Any, **__: Any) -> Any:
        raise EngineError("the engine is gone")
        yield

    monkeypatch.setattr(parts.engine, "generate", generate)
    (failed,) = await take(parts, episode, chat("Hi"))
    assert isinstance(failed, EngineError)
    assert episode.ended == "error" and episode.turns == 0
    (row,) = rows(parts, EpisodeRow)
    assert (row.status, row.error_class, row.reason) == ("error", "EngineError", "the engine is gone")
    assert not rows(parts, TurnRow)


async def test_several_answers_count_once_against_the_horizon_also_after_a_restart(parts: Parts) -> None:
    episode = await opened(parts, horizon=3)
    await take(parts, episode, chat("Hi", count=3))
    assert (episode.turns, episode.next_index, episode.turns_left) == (1, 3, 2)
    parts.episodes._open.clear()
    parts.episodes._held.clear()
    again = await parts.episodes.get(episode.id)
    assert again is not episode
    assert (again.turns, again.next_index, again.turns_left) == (1, 3, 2)
    assert again.tails.keys() == episode.tails.keys() and again.newest == episode.newest
    await take(parts, again, chat("Hi", "One.", "more"))
    await take(parts, again, chat("Hi", "One.", "even more", count=2))
    taken = sorted((row.index, row.choice) for row in rows(parts, TurnRow))
    assert taken == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 0), (5, 1)]
    with pytest.raises(HorizonReached):
        await parts.turns.begin(again, chat("Bye"), 0)


async def test_each_of_several_seeded_answers_is_sampled_with_its_own_seed(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(parts, monkeypatch)
    held.go.set()
    await take(parts, await opened(parts), chat("Hi", count=3, sampling=SamplingParams(9, seed=7)))
    assert [params.seed for params in held.params] == [7, 8, 9]
    held.params.clear()
    await take(parts, await opened(parts), chat("Hi", count=2, sampling=SamplingParams(9)))
    assert [params.seed for params in held.params] == [None, None]
    assert {params.max_tokens for params in held.params} == {9}


async def test_an_answer_gets_the_tokens_that_its_prompt_leaves_of_the_context(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(parts, monkeypatch)
    held.go.set()
    room = parts.engine.context_tokens - len(parts.renderer.prompt(chat("Hi").messages))
    for asked, given in ((room - 1, room - 1), (room, room), (room + 1, room)):
        held.params.clear()
        await take(parts, await opened(parts), chat("Hi", sampling=SamplingParams(asked)))
        assert [params.max_tokens for params in held.params] == [given]


@pytest.mark.parametrize("mark", ["idempotency_key", "retry"])
async def test_the_same_request_at_the_same_time_is_answered_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    episode, held = await opened(parts), Held(parts, monkeypatch)
    request = replace(chat("Hi", digest="d"), **{mark: "k" if mark == "idempotency_key" else True})
    both = [await parts.turns.begin(episode, request, 0), parts.turns.in_progress(request, None)]
    held.go.set()
    answers = [await turns[0].answer() for turns in both]
    assert answers[0].turn_id == answers[1].turn_id and len(rows(parts, TurnRow)) == 1
    assert episode.turns == 1 and not episode.answering
    assert parts.turns.in_progress(request, None) == []


@pytest.mark.parametrize("mark", ["idempotency_key", "retry"])
async def test_copies_of_a_request_begin_one_after_the_other_and_other_requests_wait_for_nothing(
    parts: Parts, mark: str
) -> None:
    asked = chat("Hi", digest="d")
    first, go, begun = asyncio.Event(), asyncio.Event(), list[str]()

    def marked(request: TurnRequest) -> TurnRequest:
        return replace(request, **{mark: "k" if mark == "idempotency_key" else True})

    async def begin(name: str, request: TurnRequest, *, waits: bool = False, fails: bool = False) -> None:
        async with parts.turns.beginning(request):
            begun.append(name)
            first.set()
            if waits:
                await go.wait()
            if fails:
                raise Unavailable("it cannot begin")

    original = marked(asked) if mark == "idempotency_key" else asked
    tasks = [asyncio.create_task(begin("original", original, waits=True, fails=True))]
    await first.wait()
    tasks += [asyncio.create_task(begin(f"copy {number}", marked(asked))) for number in range(2)]
    others = {
        "equal": asked,
        "digest": replace(marked(asked), digest="e", idempotency_key=None),
        "owner": replace(marked(asked), owner="you"),
    }
    await asyncio.gather(*(begin(name, request) for name, request in others.items()))
    assert begun == ["original", *others]
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], Unavailable) and results[1:] == [None, None]
    assert begun[4:] == ["copy 0", "copy 1"]
    assert not parts.turns._beginning and not parts.turns._keyed


async def test_two_equal_requests_that_are_not_marked_as_copies_never_share_an_answer(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode, held = await opened(parts), Held(parts, monkeypatch)
    (first,) = await parts.turns.begin(episode, chat("Hi", digest="d"), 0)
    assert parts.turns.in_progress(chat("Hi", digest="d"), None) == []
    (second,) = await parts.turns.begin(episode, chat("Hi", digest="d"), 0)
    held.go.set()
    assert (await first.answer()).turn_id != (await second.answer()).turn_id


def call(named: str | None = None) -> Call:
    return Call(
        "me",
        named,
        retry=False,
        idempotency_key=None,
        trains=True,
        size=0,
        headers={},
        disconnected=asyncio.Event().wait,  # type: ignore[arg-type]
    )


def body(*texts: str) -> ChatRequest:
    return ChatRequest.model_validate({"model": "policy", "messages": chat(*texts).messages})


@pytest.mark.parametrize(("shown", "text"), [(0, ""), (1, "O"), (2, "On"), (9, "One")])
async def test_the_record_of_a_stream_that_was_left_ends_with_what_was_handed_out(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, shown: int, text: str
) -> None:
    real, three = parts.engine.generate, asyncio.Event()

    async def generate(*of: Any, **more: Any) -> Any:
        sampled = 0
        async for piece in real(*of, **more):
            if sampled == 3:
                three.set()
                await asyncio.Event().wait()
            sampled += 1
            yield piece

    monkeypatch.setattr(parts.engine, "generate", generate)
    episode = await opened(parts)
    (turn,) = await parts.turns.begin(episode, replace(chat("Hi"), whole=False), 0)
    await three.wait()
    assert (turn.readers.count, turn.readers.shown) == (1, 0)
    turn.readers.shown = shown
    turn.leave()
    answer = await turn.answer()
    assert (answer.text, answer.token_ids, answer.finish_reason) == (text, list(text.encode()), "abort")
    (row,) = rows(parts, TurnRow)
    assert (row.trainable, row.untrainable_reason, row.completion_tokens) == (False, "disconnected", len(text))
    assert episode.turns == 1 and episode.ended is None


async def test_a_whole_answer_that_was_left_is_recorded_as_far_as_it_was_sampled(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode, held = await opened(parts), Held(parts, monkeypatch)
    request = replace(chat("Hi", digest="d"), retry=True)
    (first,) = await parts.turns.begin(episode, request, 0)
    (second,) = parts.turns.in_progress(request, None)
    await held.began.wait()
    first.leave()
    assert not second.abandoned, "the other request still waits"
    held.go.set()
    assert (await second.answer()).text == "One."
    (row,) = rows(parts, TurnRow)
    assert row.trainable and row.untrainable_reason is None
