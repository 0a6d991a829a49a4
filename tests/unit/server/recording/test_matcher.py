"""What is remembered of the choices of requests in progress, and how many are."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.recording.matching import matcher as module
from server.recording.matching.candidates import ENDED, FOLLOWED, FREE, Candidate, Found
from server.recording.matching.matcher import Match, Matcher
from server.recording.matching.talk import Hints, Talk
from server.store.database import Database


@pytest.fixture
def matcher(tmp_path: Path) -> Matcher:
    return Matcher(Database(f"sqlite:///{tmp_path / 'never-read.db'}"))


def talk(conversation: str | None = None) -> Talk:
    messages = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    return Talk.of(messages, [], "me", Hints(conversation=conversation))


def end(turn: str, state: int = FREE, episode: str = "") -> Candidate:
    return Candidate(turn, episode or f"episode of {turn}", state, False)


def choose(matcher: Matcher, *ends: Candidate) -> tuple[Match, Talk]:
    asked = talk()
    return matcher._choose(asked, Found(ends=list(ends), position=1)), asked


def test_two_requests_at_once_continue_two_conversations_that_are_alike(matcher: Matcher) -> None:
    ends = end("a"), end("b")
    first, one = choose(matcher, *ends)
    second, two = choose(matcher, *ends)
    assert (first.episode_id, second.episode_id) == ("episode of a", "episode of b")
    assert (one.follows, two.follows) == ("a", "b") and one.ambiguous
    third, three = choose(matcher, *ends)
    assert third.episode_id == "episode of a" and three.ambiguous


def test_a_conversation_of_a_request_that_failed_is_free_again(matcher: Matcher) -> None:
    ends = end("a"), end("b")
    _, one = choose(matcher, *ends)
    matcher.failed(one)
    _, two = choose(matcher, *ends)
    assert two.follows == "a"
    matcher.answered(two)
    _, three = choose(matcher, *ends)
    assert three.follows == "b"


def test_an_ended_conversation_is_continued_in_a_new_episode(matcher: Matcher) -> None:
    match, asked = choose(matcher, end("a", ENDED))
    assert match == Match(continues="episode of a") and asked.follows is None
    match, asked = choose(matcher, end("a", ENDED), end("b", FOLLOWED))
    assert match == Match("episode of b") and asked.follows == "b"
    assert choose(matcher)[0] == Match()


def test_the_oldest_choices_are_forgotten(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    for name in "abc":
        choose(matcher, end(name))
    choose(matcher, end("a"))
    assert list(matcher._chosen) == ["b", "c", "a"]
    choose(matcher, end("d"))
    assert list(matcher._chosen) == ["c", "a", "d"]


def test_the_oldest_ids_of_conversations_are_forgotten(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    for number in range(5):
        matcher.opened(talk(f"c{number}"), f"ep{number}")
    assert [matcher.open_now(talk(f"c{number}")) for number in range(5)] == [None, None, "ep2", "ep3", "ep4"]
    matcher.forget("ep0")
    matcher.forget("ep3")
    assert [matcher.open_now(talk(f"c{number}")) for number in range(5)] == [None, None, "ep2", None, "ep4"]
    assert len(matcher._keys) == 2
