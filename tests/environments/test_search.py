"""Deep search: its questions, its episodes, and its solver."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from env_adapters.protocol import Transition, UnknownTask
from env_adapters.search.corpus import Factbook
from env_adapters.search.facts import entries
from env_adapters.search.questions import MORE, Question
from env_adapters.search.spec import Search, f1, normalized, read_action
from tests.support.environments.searching import EXAMPLE, QUESTIONS, begun, digest, solve

pytestmark = pytest.mark.usefixtures("cache")
ROOT = Path(__file__).parents[2]


def countries_asked(question: Question) -> set[str]:
    """Return the names of the countries whose facts a question asks for."""
    owners = [support.title.partition(":")[0] for support in question.supports]
    if "/neighbours-of-" in question.task:
        return {owners[0]}
    return (
        set(owners[-2:])
        if question.task.split("/")[1].startswith(tuple(f"{kind}-of-" for kind in MORE))
        else {owners[-1]}
    )


def test_there_are_enough_questions_of_two_to_four_passages() -> None:
    assert len(QUESTIONS) >= 1500
    hops = {task: len(question.supports) for task, question in QUESTIONS.items()}
    assert all(task.startswith(f"{count}/") for task, count in hops.items())
    assert {hop: list(hops.values()).count(hop) > 150 for hop in (2, 3, 4)} == {2: True, 3: True, 4: True}
    assert len({question.text for question in QUESTIONS.values()}) == len(QUESTIONS)


def test_no_country_is_asked_for_in_both_splits(spec: Search) -> None:
    asked = {
        split: set().union(*(countries_asked(QUESTIONS[task]) for task in spec.tasks(split))) for split in spec.splits()
    }
    assert not asked["train"] & asked["test"]
    assert len(asked["train"] | asked["test"]) > 180
    assert 0.15 < len(spec.tasks("test")) / len(QUESTIONS) < 0.25
    with pytest.raises(UnknownTask, match="validation"):
        spec.tasks("validation")


def test_a_question_does_not_name_the_country_that_it_asks_for() -> None:
    for question in QUESTIONS.values():
        if "neighbours-of" not in question.task:
            assert not any(re.search(rf"\b{re.escape(name)}\b", question.text) for name in countries_asked(question)), (
                question
            )


def test_the_corpus_contains_every_answer_and_its_supports() -> None:
    texts: dict[str, list[str]] = {}
    named = {name for entry in entries().values() for name in entry.names}
    for passage in Factbook().passages():
        texts.setdefault(passage.title, []).append(passage.text)
    for question in QUESTIONS.values():
        for support in question.supports:
            assert any(support.stands in text for text in texts[support.title]), support
        shown = question.supports[-1].title
        assert question.answers[0] in named or any(question.answers[0] in text for text in texts[shown]), question


def test_a_clue_identifies_exactly_one_country() -> None:
    read = entries()
    codes = {entry.name: entry for entry in read.values()}
    for question in QUESTIONS.values():
        if " borders both " in question.text:
            one, two = (codes[support.title.partition(":")[0]] for support in question.supports[:2])
            both = {code for code, entry in read.items() if {one.code, two.code} <= set(entry.borders)}
            assert [read[code].name for code in both] == [question.supports[2].title.partition(":")[0]]


def test_the_oracle_finds_every_passage_and_answers_every_question(spec: Search) -> None:
    for task, question in QUESTIONS.items():
        seen = solve(begun(spec, task))
        assert (seen[-1].reward, seen[-1].success, seen[-1].observation) == (1.0, True, "Correct."), task
        shown = "\n".join(step.observation for step in seen)
        for support in question.supports:
            assert support.stands in shown and f"(Title: {support.title})" in shown, (task, support)
        assert len(seen) <= len(question.supports) + 1
        assert all(step.reward == 0.0 and not step.terminated and step.valid for step in seen[:-1])


def test_the_oracle_continues_from_any_state(spec: Search) -> None:
    env = begun(spec, EXAMPLE)
    env.step("nonsense")
    env.step("<search>capital of Zambia</search>")
    assert env.oracle() == "<search>former name Northern Rhodesia</search>"
    assert len(solve(env)) == 2


def test_the_first_messages_contain_the_format_and_the_question(spec: Search) -> None:
    reset = spec.make().reset(EXAMPLE, 3)
    assert [message["role"] for message in reset.messages] == ["system", "user"]
    assert "<search>" in reset.messages[0]["content"] and "<answer>" in reset.messages[0]["content"]
    assert reset.messages[1]["content"] == (
        'Question: What is the capital of the country formerly named "Northern Rhodesia"?'
    )
    assert sum(len(message["content"]) for message in reset.messages) < 700


def test_a_search_shows_three_short_passages(spec: Search) -> None:
    step = begun(spec, EXAMPLE).step("<search>Zambia capital</search>")
    assert step.observation.startswith("<information>\nDoc 1 (Title: Zambia: Capital) name: Lusaka;")
    assert [line[:5] for line in step.observation.splitlines()[1:-1]] == ["Doc 1", "Doc 2", "Doc 3"]
    assert len(step.observation) < 1600


def test_a_wrong_answer_ends_the_episode_without_a_reward(spec: Search) -> None:
    env = begun(spec, EXAMPLE)
    step = env.step("<answer>Ndola</answer>")
    assert step == Transition("Wrong.", 0.0, True, success=False, info={"f1": 0.0})
    for call in (lambda: env.step("<answer>Lusaka</answer>"), env.oracle):
        with pytest.raises(ValueError, match="over"):
            call()


@pytest.mark.parametrize("answer", ["Lusaka", "the lusaka.", '"LUSAKA"', " Lusáka "])
def test_an_answer_is_correct_in_any_accepted_spelling(spec: Search, answer: str) -> None:
    assert begun(spec, EXAMPLE).step(f"<answer>{answer}</answer>").reward == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Lusaka",
        "<search></search>",
        "<answer> </answer>",
        "search: Upper Volta",
        "<think><answer>Lusaka</answer></think>",
        "<think><search>a</search>",
    ],
)
def test_an_answer_without_an_action_changes_nothing_and_lists_the_possible_ones(spec: Search, text: str) -> None:
    step = begun(spec, EXAMPLE).step(text)
    assert not step.valid and not step.terminated and step.reward == 0.0
    assert "<search>words</search>" in step.observation


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<search>Upper Volta</search>", ("search", "Upper Volta")),
        ("Let me look.\n<search>\nUpper  Volta\n</search> Then <answer>x</answer>", ("search", "Upper Volta")),
        ("<search>Upper Volta", ("search", "Upper Volta")),
        ("<SEARCH>Upper Volta</Search>", ("search", "Upper Volta")),
        ("<think>I <answer>no</answer></think><answer>`Paris`</answer>", ("answer", "Paris")),
        ("thoughts without a beginning <answer>no</answer></think> <answer>Paris</answer>", ("answer", "Paris")),
        ("Action: <answer>Paris</answer>", ("answer", "Paris")),
    ],
)
def test_the_action_is_found_in_an_answer(text: str, action: tuple[str, str]) -> None:
    assert read_action(text) == action


def test_answers_are_compared_as_squad_does() -> None:
    assert normalized(" The  United-States, of A mérica!") == "unitedstates of merica"
    assert f1("the dollar of Guyana", "Guyanese dollar") == pytest.approx(0.4)
    assert f1("euros", "yen") == 0.0


def test_tool_calls_and_text_are_the_same_actions(spec: Search) -> None:
    assert [tool["function"]["name"] for tool in spec.tools] == ["search", "answer"]
    assert read_action(spec.text_of("search", {"query": "Upper Volta"})) == ("search", "Upper Volta")
    assert read_action(spec.text_of("answer", {"text": "Paris"})) == ("answer", "Paris")
    for name, arguments in (("fly", {}), ("search", {}), ("search", {"query": 3}), ("answer", {"query": "Paris"})):
        with pytest.raises(ValueError, match=name):
            spec.text_of(name, arguments)


def test_a_random_player_is_always_valid_and_rarely_correct(spec: Search) -> None:
    rng, right = random.Random("search"), 0
    for task in rng.sample(list(QUESTIONS), 60):
        env = begun(spec, task)
        for _ in range(10):
            step = env.step(env.random(rng))
            assert step.valid
            if step.terminated:
                right += bool(step.success)
                break
    assert right <= 3


@pytest.mark.parametrize("task", ["", "2/former-atlantis/capital", "Suriname"])
def test_an_unknown_task_is_refused_with_an_example_of_a_name(spec: Search, task: str) -> None:
    with pytest.raises(UnknownTask, match="named like"):
        spec.make().reset(task, 0)


def test_the_same_task_gives_the_same_episode_in_every_process(spec: Search, cache: Path) -> None:
    code = (
        "from env_adapters.search.spec import make_spec; from tests.support.environments.searching import digest; "
        "print(digest(make_spec()))"
    )
    digests = {digest(spec)}
    for hash_seed in ("1", "2"):
        environ = os.environ | {"PYTHONHASHSEED": hash_seed, "XDG_CACHE_HOME": str(cache / hash_seed)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_listing_tasks_imports_nothing_heavy() -> None:
    code = (
        "import sys; from env_adapters import environment_spec; environment_spec('search').tasks('train'); "
        "print([m for m in ('httpx2', 'numpy', 'sqlalchemy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
