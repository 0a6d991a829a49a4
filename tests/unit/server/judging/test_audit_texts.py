"""What the audit reads in answers: questions, repeated text, and broken calls."""

from __future__ import annotations

import random
import string

import pytest

from server.training.judging.audit.texts import asks, repetition


@pytest.mark.parametrize(
    "text",
    [
        "Which item do you want?",
        "I see a door.\nShould I open it?\n\n",
        "<think>open it</think>\nShall I go on?  ",
        "**May I?**",
        "次はどうしますか？",
        "ماذا تريد؟",
    ],
)
def test_an_answer_that_ends_with_a_question_asks(text: str) -> None:
    assert asks(text, understood=True) and asks(text, understood=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "open the door",
        "Should I open it?\nAction: open",
        "<think>what now?</think>",
        "search[who is it?]\n go",
    ],
)
def test_an_answer_that_ends_otherwise_acts(text: str) -> None:
    assert not asks(text, understood=True) and not asks(text, understood=False)


def test_a_question_with_a_courtesy_after_it_asks_unless_the_environment_found_an_action() -> None:
    assert asks("Which one do you mean? Thank you.", understood=False)
    assert not asks("Which one do you mean? Thank you.", understood=True)


def test_repeated_text_is_measured_within_an_answer_and_against_the_one_before() -> None:
    rng = random.Random(1)
    fresh = ["".join(rng.choices(string.ascii_lowercase, k=200)) for _ in range(6)]
    assert repetition(fresh) == 0.0
    assert repetition(["again and again, " * 30]) > 0.9
    assert repetition([fresh[0], fresh[0]]) == pytest.approx(0.5)
    assert repetition([fresh[0], fresh[1], fresh[0], fresh[1]]) == 0.0, "only the answer before counts"
    assert repetition(["好" * 60]) > 0.7, "languages without spaces"


def test_neither_short_actions_nor_more_turns_nor_longer_thoughts_look_like_repetition() -> None:
    assert repetition([]) is None and repetition(["", "go north"] * 9) is None
    assert repetition(["Action: go to the next room"] * 9) == 0.0
    rng = random.Random(2)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9))) for _ in range(400)]

    def thought(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    few, many = [repetition([thought(60) for _ in range(turns)]) for turns in (2, 20)]
    assert few is not None and many is not None and abs(few - many) < 0.02
    longer = repetition([thought(300) for _ in range(20)])
    assert longer is not None and longer < 0.05
