"""Prompts from a file, answered in one turn: for the guards of an evaluation plan, or for training.

A line of the file is `{"task", "prompt", "contains", "excludes", "split"}`. An answer is right if it has one of the
texts of `contains`, if there are any, and none of `excludes`, each as whole words and regardless of case and spacing.
Thoughts do not count.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_adapters.json_lines import json_lines
from env_adapters.protocol import EnvironmentFailure, Reset, Transition, UnknownTask
from env_adapters.simple import SimpleSpec
from env_adapters.thoughts import without_thoughts

FORM = "`prompt` or `messages`, `contains` or `excludes`, and optionally `task` and `split` (train or test)"
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Prompt:
    """One line of the file."""

    task: str
    messages: list[dict[str, Any]]
    contains: list[str]
    """Texts of which a right answer has at least one; empty allows any."""
    excludes: list[str]
    """Texts that a right answer must not have."""
    split: str


class Question:
    """One instance: a prompt and its answer."""

    def __init__(self, prompts: dict[str, Prompt]) -> None:
        self._prompts = prompts
        self._asked: Prompt | None = None

    def reset(self, task: str, seed: int) -> Reset:
        """Ask a prompt. The seed has no effect."""
        if task not in self._prompts:
            raise UnknownTask(f"there is no prompt {task!r}")
        self._asked = self._prompts[task]
        return Reset(list(self._asked.messages))

    def step(self, text: str) -> Transition:
        """Judge an answer, which ends the episode.

        Raises:
            ValueError: the episode is over or has not begun.
        """
        asked, self._asked = self._prompt(), None
        answer = _plain(without_thoughts(text))
        right = not asked.contains or any(_has(answer, part) for part in asked.contains)
        right = right and not any(_has(answer, part) for part in asked.excludes)
        return Transition("", float(right), True, success=right)

    def oracle(self) -> str:
        """Answer with the first text that a right answer may have."""
        return (self._prompt().contains or ["-"])[0]

    def random(self, rng: random.Random) -> str:
        """Answer with a text that is right for some prompt."""
        return rng.choice(rng.choice(list(self._prompts.values())).contains or ["-"])

    def close(self) -> None:
        """End the episode."""
        self._asked = None

    def _prompt(self) -> Prompt:
        if self._asked is None:
            raise ValueError("this episode is over or has not begun: reset it first")
        return self._asked


def make_spec(argument: str, name: str = "prompts") -> SimpleSpec:
    """Return the environment of a file of prompts.

    Raises:
        ValueError: the file cannot be read, or a line has another form.
    """
    try:
        prompts = _read(Path(argument).expanduser())
    except EnvironmentFailure as error:
        raise ValueError(str(error)) from error
    lists = {split: [prompt.task for prompt in prompts.values() if prompt.split == split] for split in SPLITS}
    return SimpleSpec(name, f"Answer {len(prompts)} prompts, each in one turn.", lambda: Question(prompts), lists)


def _read(path: Path) -> dict[str, Prompt]:
    prompts: dict[str, Prompt] = {}
    for number, line in json_lines(path):
        where = f"{path}, line {number}"
        prompt = _prompt_of(line, f"line-{number}")
        if prompt is None:
            raise EnvironmentFailure(f"{where} is not a prompt: it has {FORM}")
        if prompt.task in prompts:
            raise EnvironmentFailure(f"{where} repeats the task {prompt.task!r}")
        prompts[prompt.task] = prompt
    if not prompts:
        raise EnvironmentFailure(f"{path} has no prompts")
    return prompts


def _prompt_of(line: dict[str, Any], number: str) -> Prompt | None:
    """Return a line's prompt; None if it has another form."""
    line = {"task": number, "contains": [], "excludes": [], "split": "test", **line}
    messages = line.pop("messages", None) or [{"role": "user", "content": line.pop("prompt", None)}]
    texts = {name: [value] if isinstance(value := line.get(name), str) else value for name in ("contains", "excludes")}
    valid = (
        line.keys() <= {"task", "contains", "excludes", "split"}
        and isinstance(line["task"], str)
        and line["task"].strip()
        and line["split"] in SPLITS
        and isinstance(messages, list)
        and all(map(_is_message, messages))
        and all(isinstance(listed, list) and all(map(_is_text, listed)) for listed in texts.values())
        and any(texts.values())
    )
    if not valid:
        return None
    return Prompt(line["task"], messages, texts["contains"], texts["excludes"], line["split"])  # type: ignore[arg-type]


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and message["role"] in ("system", "user", "assistant")
        and _is_text(message["content"])
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _has(answer: str, part: str) -> bool:
    """Return whether an answer has a text that no word continues: `14 days` is not in `140 days` or `14 daysy`."""
    return re.search(rf"(?<!\w){re.escape(_plain(part))}(?!\w)", answer) is not None
