"""Answers that were left, and who still waits for one."""

from __future__ import annotations

import asyncio

import pytest

from server.errors import Unavailable
from server.recording import cut_answers
from server.recording.cut_answers import CutAnswers
from server.recording.tokens import chain_hashes
from server.recording.turn import Readers

ASK = {"role": "user", "content": "Hi"}
BEFORE = chain_hashes([ASK])[0]


def find(answers: CutAnswers, said: str, owner: str = "me") -> str | None:
    talk = [ASK, {"role": "assistant", "content": said}, {"role": "user", "content": "Go on."}]
    return answers.find(owner, talk, chain_hashes(talk))


def test_a_beginning_of_an_answer_finds_its_newest_episode_until_that_ends() -> None:
    answers = CutAnswers()
    answers.remember("me", BEFORE, "old", "Hello there")
    answers.remember("me", BEFORE, "new", "Hello you")
    assert find(answers, "Hello ") == "new"
    assert find(answers, "Hello th") == "old"
    assert [find(answers, "Hello th", "other"), find(answers, "Bye"), find(answers, "")] == [None, None, None]
    answers.forget("new")
    answers.forget("new")
    assert find(answers, "Hello") == "old"


def test_the_oldest_answers_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_answers, "KEPT", 3)
    answers = CutAnswers()
    for number in range(5):
        answers.remember("me", BEFORE, f"ep{number}", f"{number} is the answer")
        answers.remember("me", BEFORE, f"ep{number}", f"{number} is the longer answer")
    assert [find(answers, f"{number} is the longer") for number in range(5)] == [None, None, "ep2", "ep3", "ep4"]
    for number in range(5):
        answers.forget(f"ep{number}")
    assert not (answers._answers or answers._episodes or answers._keys)


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
