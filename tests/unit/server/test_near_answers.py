"""Answers that come back in part, and who still waits for one."""

from __future__ import annotations

import asyncio

import pytest

from server.errors import Unavailable
from server.recording.matching import near_answers
from server.recording.matching.near_answers import NearAnswers
from server.recording.matching.talk import Hints, Talk, text_of
from server.recording.turn import Readers

ASK = {"role": "user", "content": "Hi"}


def talk(said: str | None, owner: str = "me") -> Talk:
    messages = [ASK] if said is None else [ASK, {"role": "assistant", "content": said}, ASK]
    return Talk.of(messages, [], owner, Hints())


def remember(answers: NearAnswers, episode: str, said: str) -> None:
    answers.remember(
        talk(None).loose[-1], f"turn of {episode}", episode, text_of({"role": "assistant", "content": said})
    )


def find(answers: NearAnswers, said: str, owner: str = "me") -> list[str]:
    return [near.episode_id for near in answers.find(talk(said, owner), after=-1)]


def test_an_answer_is_found_by_its_beginning_and_by_what_begins_with_most_of_it_until_its_episode_ends() -> None:
    answers = NearAnswers()
    remember(answers, "old", "Hello there")
    remember(answers, "new", "Hello you")
    assert find(answers, "Hello ") == ["new", "old"]
    assert find(answers, "Hello th") == ["old"]
    assert find(answers, "<think>Hm.</think>\nHello there</code>") == ["old"]
    assert [find(answers, "Hello th", "other"), find(answers, "Bye"), find(answers, "")] == [[], [], []]
    assert find(answers, "Hello there, and now something that nobody had said before") == []
    answers.forget("new")
    answers.forget("new")
    assert find(answers, "Hello") == ["old"]


@pytest.mark.parametrize("end", ["", "\n</code>", "\n```"])
def test_an_answer_is_found_by_what_adds_a_report_of_its_code_and_of_no_other(end: str) -> None:
    answers, code = NearAnswers(), "path = 'a\\n\"b'\n\tprint(path)"
    said = f"Go.\n<code>\n{code}{end}"
    remember(answers, "it", said)
    assert find(answers, f"{said}\nI called a tool, and this is my report of the call: {[{'code': code}]}") == ["it"]
    assert find(answers, f"{said}\nI called a tool, and this is my report of the call: {['print(other)', 1]}") == []
    remember(answers, "short", "Yes.")
    assert find(answers, "Yes. Yes. Yes. Yes. And much more.") == []


def test_the_oldest_answers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_answers, "KEPT", 3)
    answers = NearAnswers()
    for number in range(5):
        remember(answers, f"ep{number}", f"{number} is the answer")
    assert [find(answers, f"{number} is the") for number in range(5)] == [[], [], ["ep2"], ["ep3"], ["ep4"]]
    for number in range(5):
        answers.forget(f"ep{number}")
    assert not (answers._answers or answers._turns or answers._of_episodes)


def test_long_answers_are_dropped_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_answers, "KEPT_CHARACTERS", 100)
    answers = NearAnswers()
    for number in range(5):
        remember(answers, f"ep{number}", f"{number}" * 40)
    remember(answers, "too long", "x" * 101)
    assert [find(answers, f"{number}" * 30) for number in range(5)] == [[], [], [], ["ep3"], ["ep4"]]
    answers.forget("ep4")
    remember(answers, "ep5", "5" * 40)
    assert find(answers, "3" * 30) == ["ep3"], "what an ended episode had is free again"
    assert sum(len(text) for _, _, text, _ in answers._answers.values()) == answers._characters


def test_a_conversation_is_compared_with_few_of_many_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_answers, "COMPARED", 3)
    answers = NearAnswers()
    for number in range(10):
        remember(answers, f"ep{number}", "go north")
    assert find(answers, "go n") == ["ep9", "ep8", "ep7"]


async def test_the_last_reader_leaves_for_good_only_after_the_grace() -> None:
    readers, gone = Readers(), asyncio.Event()
    readers.when_gone = gone.set
    readers.leave(60.0)
    waiting = asyncio.create_task(readers.remain())
    await asyncio.sleep(0)
    readers.join()
    assert await waiting and not readers.gone
    readers.leave(0.0)
    assert readers.gone and gone.is_set()
    assert not await readers.remain()


async def test_a_retry_restarts_the_grace() -> None:
    readers = Readers()
    readers.leave(0.001)
    readers.join()
    readers.leave(60.0)
    await asyncio.sleep(0.01)
    assert not readers.gone
    readers.stop(Unavailable("the server is stopping"))
    assert readers.gone
