"""The same right action in any dress is the same step in every environment, and nothing else is executed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from env_adapters import environment_spec
from env_adapters.answer import read_action
from env_adapters.dress import fences
from env_adapters.protocol import Environment, Transition
from env_adapters.remote.agentgym_kinds import KINDS
from env_adapters.remote.mcp import read_call
from env_adapters.remote.openenv import Form
from env_adapters.thoughts import without_thoughts

ACTIONS = {
    "textcraft": ("1/acacia_planks", "get 3 acacia logs", "get 9 coal"),
    "babyai": ("GoToRedBall/17", "turn left", "turn right"),
    "textworld": ("coin-1/7", "look", "inventory"),
    "sciworld": ("boil/0", "open door to kitchen", "inventory"),
    "gymnasium:FrozenLake-v1": ("seed-3", "right", "down"),
    "search": ("2/former-zaire/capital", "<search>Upper Volta</search>", "<answer>Paris</answer>"),
    "shop": ("order-two/1", "click [2]", "click [1]"),
    "miniwob": ("click-test-2/0", "click [1]", "click [2]"),
}
"""By environment: a task, a right action, and another one that is possible too."""
DRESSES: dict[str, Callable[[str], str]] = {
    "AgentGym": lambda a: f"Thought:\nI know what to do.\n\nAction:\n{a}",
    "ReAct": lambda a: f"Thought: I know what to do.\nAction: {a}",
    "ReAct on one line": lambda a: f"Thought: I know what to do. Action: {a}",
    "think": lambda a: f"<think>\nI know what to do.\n\nSo be it.\n</think>\n\n{a}",
    "think and label": lambda a: f"<think>Hm.</think>\nAction: {a}",
    "thinking": lambda a: f"<thinking>Hm.</thinking> {a}",
    "the end of a thought": lambda a: f"I know what to do.\n</think>\n\n{a}",
    "fence": lambda a: f"```\n{a}\n```",
    "fence with a language": lambda a: f"```text\n{a}\n```",
    "fence on one line": lambda a: f"```{a}```",
    "prose and fence": lambda a: f"I know what to do now:\n\n```\n{a}\n```\nThat is best.",
    "prose and last line": lambda a: f"I know what to do now. It is the best choice.\n\n{a}",
    "heading": lambda a: f"### Thought\nI know what to do.\n\n### Action\n{a}",
    "heading with a colon": lambda a: f"## Action:\n\n{a}\n",
    "heading and fence": lambda a: f"### Action\n```\n{a}\n```",
    "bold label": lambda a: f"**Action**: {a}",
    "bold label with its colon": lambda a: f"**Thought:** Hm.\n\n**Action:** {a}",
    "label in capitals": lambda a: f"ACTION: {a}",
    "the next action": lambda a: f"Next action: {a}",
    "full-width colon": lambda a: f"Action\uff1a{a}",
    "Windows line ends": lambda a: f"Thought: I know.\r\n\r\nAction:\r\n{a}\r\n",
    "number": lambda a: f"1. {a}",
    "bullet": lambda a: f"- {a}",
    "quote": lambda a: f"> {a}",
    "backticks": lambda a: f"`{a}`",
    "tag": lambda a: f"I know what to do.\n<action>{a}</action>",
    "tag on lines": lambda a: f"<action>\n{a}\n</action>",
    "box": lambda a: f"So the best is \\boxed{{{a}}}.",
    "box with text": lambda a: f"\\boxed{{\\text{{{a}}}}}",
    "JSON": lambda a: f'{{"action": "{a}"}}',
    "JSON with extra keys": lambda a: f'{{"thought": "I know.", "action": "{a}", "confidence": 0.9}}',
    "JSON in a fence": lambda a: f'```json\n{{\n  "thought": "I know.",\n  "action": "{a}"\n}}\n```',
    "JSON after prose": lambda a: f'I know what to do.\n{{"action": "{a}"}}',
    "WebArena": lambda a: f"Let's think step by step. In summary, the next action I will perform is ```{a}```",
    "label without a sentence's end": lambda a: f"Thought: I know what to do Action: {a}",
    "numbered labels": lambda a: f"Thought 1: I know.\nAction 1: {a}",
    "label in brackets": lambda a: f"[Action] {a}",
    "underlined heading": lambda a: f"Action\n------\n{a}",
    "step": lambda a: f"Step 1: {a}",
    "arrow": lambda a: f"\u2192 {a}",
    "marks of a turn": lambda a: f"<|im_start|>assistant\n{a}<|im_end|>",
    "end of a text": lambda a: f"Action: {a}</s>",
    "byte order mark": lambda a: f"\ufeffAction: {a}",
    "tildes": lambda a: f"~~~\n{a}\n~~~",
    "Python's dictionary": lambda a: f"{{'thought': 'I know.', 'action': '{a}'}}",
    "comment": lambda a: f"Action: {a}  # the best",
    "spaces": lambda a: f"\n\n   {a}  \n\n",
    "period": lambda a: f"{a}.",
    "exclamation mark": lambda a: f"Action: {a}!",
    "quotes": lambda a: f'Action: "{a}"',
}
ADVERSARIAL: dict[str, Callable[[str, str], str]] = {
    "an action in a thought": lambda a, b: f"<think>\n{b}\nAction: {b}\n</think>\n{a}",
    "a labelled action in a thought": lambda a, b: f"<think>Maybe\nAction: {b}\n</think>\nAction: {a}",
    "a fence in a thought": lambda a, b: f"<think>\n```\n{b}\n```\n</think>\n```\n{a}\n```",
    "a fence in a labelled thought": lambda a, b: f"Thought:\nI could\n```\n{b}\n```\n\nAction:\n{a}",
    "a tag in a thought": lambda a, b: f"<think><action>{b}</action></think>{a}",
    "a nested thought": lambda a, b: f"<think>a<think>{b}</think>\n{b}\n</think>\nAction: {a}",
    "a thought without a beginning": lambda a, b: f"Action: {b}\n</think>\n{a}",
    "a thought after the action": lambda a, b: f"Action: {a}\n<think>\nor {b}",
    "two labelled actions": lambda a, b: f"Action: {a}\nObservation: done\nAction: {b}",
    "two lines": lambda a, b: f"{a}\n{b}",
    "an action quoted in prose": lambda a, b: f"I will not do `{b}` and not '{b}'.\nAction: {a}",
    "a thought in JSON": lambda a, b: f'{{"thought": "Action: {b}", "action": "{a}"}}',
    "a hallucinated observation": lambda a, b: f"Thought: so\nAction: {a}\nObservation: fine\nThought: then\n{b}",
}
NOTHING: dict[str, Callable[[str], str]] = {
    "empty": lambda a: "",
    "spaces": lambda a: " \r\n\t\n",
    "an unclosed thought": lambda a: f"<think>\nAction: {a}\n{a}",
    "only a thought": lambda a: f"<think>{a}</think>",
    "only a labelled thought": lambda a: f"Thought: {a}",
    "an empty label": lambda a: "Action:",
    "an empty fence": lambda a: "```\n```",
    "an empty tag": lambda a: "<action></action>",
    "JSON without an action": lambda a: '{"thought": "hm", "confidence": 1}',
    "broken JSON": lambda a: '{"action": ',
}


class Table:
    """One instance per environment, which every test resets."""

    def __init__(self) -> None:
        self._games: dict[str, Environment] = {}
        self._bare: dict[tuple[str, str], Transition] = {}

    def step(self, name: str, answer: str) -> Transition:
        """Return the first step of an episode."""
        if name not in self._games:
            spec = environment_spec(name)
            if command := spec.missing():
                pytest.skip(command)
            self._games[name] = spec.make()
        self._games[name].reset(ACTIONS[name][0], 0)
        return self._games[name].step(answer)

    def bare(self, name: str, action: str) -> Transition:
        """Return the step of an action without any dress."""
        if (name, action) not in self._bare:
            self._bare[name, action] = self.step(name, action)
        return self._bare[name, action]

    def close(self) -> None:
        for game in self._games.values():
            game.close()


@pytest.fixture(scope="module")
def table(cache: Any) -> Iterator[Table]:
    made = Table()
    yield made
    made.close()


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_is_the_same_in_every_dress(table: Table, name: str, dress: str) -> None:
    _, right, _ = ACTIONS[name]
    assert table.bare(name, right).valid
    answer = DRESSES[dress](right)
    assert table.step(name, answer) == table.bare(name, right), answer


@pytest.mark.parametrize("name", ACTIONS)
def test_a_tool_call_in_any_form_is_the_action_it_stands_for(table: Table, name: str) -> None:
    calls: dict[str, tuple[str, str]] = {
        "textcraft": ("get", '{"item": "acacia logs", "count": 3}'),
        "babyai": ("turn_left", "{}"),
        "textworld": ("act", '{"command": "look"}'),
        "search": ("search", '{"query": "Upper Volta"}'),
        "shop": ("click", '{"id": 2}'),
        "miniwob": ("click", '{"id": 1}'),
    }
    action = ACTIONS[name][1]
    tool, arguments = calls.get(name, ("act", f'{{"action": "{action}"}}'))
    for answer in (
        f'<tool_call>\n{{"name": "{tool}", "arguments": {arguments}}}\n</tool_call>',
        f'{{"thought": "so", "function_name": "{tool}", "arguments": {arguments}}}',
        f"Thought: so\nAction: {tool}\nAction Input: {arguments}",
    ):
        assert table.step(name, answer) == table.bare(name, action), answer


@pytest.mark.parametrize("dress", ADVERSARIAL)
@pytest.mark.parametrize("name", ACTIONS)
def test_only_the_answers_own_action_is_executed(table: Table, name: str, dress: str) -> None:
    _, right, other = ACTIONS[name]
    answer = ADVERSARIAL[dress](right, other)
    assert table.step(name, answer) == table.bare(name, right), answer
    assert table.bare(name, other) != table.bare(name, right)


@pytest.mark.parametrize("dress", NOTHING)
@pytest.mark.parametrize("name", ACTIONS)
def test_an_answer_without_an_action_executes_nothing(table: Table, name: str, dress: str) -> None:
    answer = NOTHING[dress](ACTIONS[name][1])
    step = table.step(name, answer)
    assert (step.valid, step.reward, step.terminated) == (False, 0.0, False), answer


@pytest.mark.parametrize("dress", DRESSES)
def test_remote_environments_get_the_action_without_its_dress(dress: str) -> None:
    dressed = DRESSES[dress]
    assert read_call(dressed("inventory"), {"inventory", "get"}) == ("inventory", {})
    field = Form({"properties": {"number": {"type": "integer"}}, "required": ["number"]})
    assert field.action(dressed("3")) == {"number": 3}
    for kind, action in (
        ("textcraft", "get 3 acacia logs"),
        ("babyai", "go to red ball 1"),
        ("sciworld", "open door to hallway"),
        ("alfworld", "go to shelf 1"),
        ("maze", "move up"),
        ("wordle", "s h i r e"),
        ("webshop", "click[buy now]"),
    ):
        assert KINDS[kind].action(dressed(action)) == action
    assert fences(KINDS["webarena"].action(dressed("click [5]"))) == ["click [5]"]


@pytest.mark.parametrize("dress", ["AgentGym", "ReAct", "think", "fence", "tag", "JSON", "Windows line ends", "box"])
def test_a_text_of_an_openenv_action_loses_its_dress_and_keeps_its_lines(dress: str) -> None:
    form = Form({"properties": {"message": {"type": "string"}}, "required": ["message"]})
    assert form.action(DRESSES[dress]("say hello")) == {"message": "say hello"}
    assert form.action("<think>a\nAction: no</think>\nprint(1)\n\nprint(2)") == {"message": "print(1)\n\nprint(2)"}


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("textcraft", "get acacia_logs", "get 1 acacia logs"),
        ("textcraft", "Action: get 2 acacia_logs", "get 2 acacia logs"),
        ("textcraft", "collect 2 acacia logss", "get 2 acacia logs"),
        ("textcraft", "craft acacia planks", "craft 4 acacia planks using 1 acacia logs"),
        ("textcraft", "craft 4 acacia plank using 1 acacia logs", "craft 4 acacia planks using 1 acacia logs"),
        ("textcraft", "craft 4 acacia planks using acacia logs", "craft 4 acacia planks using 1 acacia logs"),
        ("babyai", "turn lefft", "turn left"),
        ("textworld", "tke key", "take X"),
        ("textworld", "unlock door", "unlock X with Y"),
        ("sciworld", "opne door", "open X"),
        ("gymnasium:FrozenLake-v1", "rihgt", "right"),
        ("search", "search: Upper Volta", "<search>Upper Volta</search>"),
        ("search", "Answer: Paris", "<answer>Paris</answer>"),
        ("shop", "tap it", "click [id]"),
        ("shop", "fill in the form", "type [id] [text]"),
    ],
)
def test_what_is_not_understood_is_answered_with_the_nearest_valid_form(
    table: Table, name: str, answer: str, hint: str
) -> None:
    step = table.step(name, answer)
    assert f"\nDid you mean: {hint}" in step.observation
    assert (step.reward, step.terminated) == (0.0, False)


@pytest.mark.parametrize("words", ["*", "???", "Zwiebelkuchen", "\u5317\u4eac"])
def test_a_search_without_a_hit_says_what_to_search_for(table: Table, words: str) -> None:
    step = table.step("search", f"<search>{words}</search>")
    assert "No passage has these words." in step.observation
    assert step.observation.endswith("\nSearch for names and words as the question or a passage writes them.")


SPACE = {
    "spaces": " " * 400_000,
    "line ends": "\n" * 400_000,
    "empty lines": "a\n" + " \n" * 200_000 + "b",
    "marks": "</s>" * 100_000,
    "marks before text": "</s> " * 100_000 + "x",
}


@pytest.mark.parametrize("name", SPACE)
def test_an_answer_of_white_space_takes_no_longer_than_one_of_text(name: str) -> None:
    """In quadratic time, this test would take hours."""
    assert read_action(SPACE[name], lambda text: text if text == "go north" else None) is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<|im_start|>assistant\ngo north<|im_end|>\n", "go north"),
        ("go north </s> <eos>\n\n", "go north"),
        ("<s>go</s> north", "go</s> north"),
        ("go north \n", "go north "),
        (" <|im_end|> ", ""),
    ],
)
def test_marks_of_a_turn_are_no_part_of_an_answer(answer: str, text: str) -> None:
    assert without_thoughts(answer) == text
