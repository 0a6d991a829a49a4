"""Prompts from a file: which answers are right, and which files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from env_adapters.prompts.spec import make_spec
from env_adapters.protocol import UnknownTask
from env_adapters.registry import Registry


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("line", "answer", "right"),
    [
        ({"contains": "14 days"}, "Within 14\n DAYS.", True),
        ({"contains": "14 days"}, "Within 140 days or 114 days", False),
        ({"contains": "14 days"}, "14 daysy", False),
        ({"contains": ["yes", "of course"]}, "Of course!", True),
        ({"contains": "yes"}, "<think>yes</think> no", False),
        ({"contains": "a+b"}, "a+b", True),
        ({"contains": "a+b"}, "aab", False),
        ({"contains": "straße"}, "STRASSE", True),
        ({"contains": "yes", "excludes": "but"}, "yes, but", False),
        ({"contains": "yes", "excludes": "but"}, "yes, butter", True),
        ({"excludes": ["damn"]}, "", True),
        ({"excludes": ["damn"]}, "Damn it", False),
    ],
)
def test_an_answer_is_right_if_it_has_the_words(
    tmp_path: Path, line: dict[str, object], answer: str, right: bool
) -> None:
    spec = make_spec(str(written(tmp_path / "p.jsonl", {"task": "t", "prompt": "Well?", **line})))
    game = spec.make()
    assert game.reset("t", 0).messages == [{"role": "user", "content": "Well?"}]
    result = game.step(answer)
    assert (result.terminated, result.success, result.reward) == (True, right, float(right))
    with pytest.raises(ValueError, match="over"):
        game.step(answer)


def test_a_file_has_two_splits_and_numbered_tasks(tmp_path: Path) -> None:
    lines = [{"prompt": "One?", "contains": "1"}, {"prompt": "Two?", "contains": "2", "split": "train", "task": "two"}]
    spec = make_spec(str(written(tmp_path / "p.jsonl", *lines)))
    assert (spec.tasks("test"), spec.tasks("train")) == (["line-1"], ["two"])
    game = spec.make()
    for task in ("line-1", "two"):
        game.reset(task, 0)
        assert game.step(game.oracle()).success
    with pytest.raises(UnknownTask, match="no prompt 'three'"):
        game.reset("three", 0)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "has no prompts"),
        ([{"prompt": "One?"}], "line 1 is not a prompt"),
        ([{"contains": "1"}], "line 1 is not a prompt"),
        ([{"prompt": "One?", "contains": []}], "line 1 is not a prompt"),
        ([{"prompt": "One?", "contains": " "}], "line 1 is not a prompt"),
        ([{"prompt": 1, "contains": "1"}], "line 1 is not a prompt"),
        ([{"prompt": "One?", "contains": "1", "split": "dev"}], "line 1 is not a prompt"),
        ([{"prompt": "One?", "contains": "1", "contain": "1"}], "line 1 is not a prompt"),
        ([{"prompt": "One?", "messages": [{"role": "user", "content": "1"}], "contains": "1"}], "is not a prompt"),
        ([{"messages": [{"role": "tool", "content": "1"}], "contains": "1"}], "is not a prompt"),
        ([{"task": "a", "prompt": "One?", "contains": "1"}] * 2, "line 2 repeats the task 'a'"),
        ([["One?"]], "line 1 is not a JSON object"),
    ],
)
def test_a_file_of_another_form_is_refused_when_it_is_named(tmp_path: Path, lines: list[object], why: str) -> None:
    path = written(tmp_path / "p.jsonl", *lines)
    with pytest.raises(ValueError, match=why):
        Registry().add_remote("guards", f"prompts@{path}")


def test_a_missing_file_is_refused_when_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        Registry().add_remote("guards", f"prompts@{tmp_path / 'none.jsonl'}")
