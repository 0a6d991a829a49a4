"""A new algorithm is one file and one line, and nothing outside the registry knows an algorithm by name."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from sqlalchemy.orm import Session

import migrations
from learner.algorithms.algorithm import Algorithm
from learner.algorithms.registry import algorithm_of
from learner.checks import BadInput
from learner.step import Trainer
from server.store.database import Database
from server.training.data.branches import samples
from tests.unit.learner.test_learner_samples import tiny_policy, unguarded
from tests.unit.server.test_selection import Record
from upturn.wire import ALGORITHMS, AlgorithmTraits, RunConfig

ROOT = Path(__file__).parents[3]
REGISTRY = "clients/python/upturn/wire/algorithms.py"
NAME = "median_baseline"
LINE = f'    "{NAME}": AlgorithmTraits(groups="required"),\n'
FILE = '''"""A group's median as the baseline: A_i = r_i - median(r)."""

from collections.abc import Mapping, Sequence
from statistics import median

from learner.algorithms.algorithm import EpisodeAlgorithm
from learner.algorithms.groups import comparable_groups
from upturn.wire import Sample


class MedianBaseline(EpisodeAlgorithm):
    """Advantage: reward minus the group's median."""

    def episode_credit(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """Return the advantage of each episode in a comparable group."""
        return {
            episode: reward - median(rewards.values())
            for rewards in comparable_groups(samples)
            for episode, reward in rewards.items()
        }
'''


def test_a_new_algorithm_of_one_file_and_one_line_selects_episodes_and_trains_a_step(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for package in ("server", "learner", "env_adapters", "migrations", "clients/python"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "learner" / "algorithms" / f"{NAME}.py").write_text(FILE)
    before, first, after = (copy / REGISTRY).read_text().partition('    "grpo": ')
    (copy / REGISTRY).write_text(before + LINE + first + after)
    paths = [str(copy), str(copy / "clients" / "python"), str(ROOT)]
    ran = subprocess.run(
        [sys.executable, "-c", "from tests.unit.project import test_add_algorithm as t; t.train_a_step()"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(ran.stdout.splitlines()[-1])
    assert shown == {
        "learner": str(copy / "learner" / "step.py"),
        "selected": ["a", "b", "c"],
        "advantages": {"a": 1.0, "b": 0.0, "c": -0.5},
        "changed": True,
    }


def train_a_step() -> None:
    """Select episodes for the new algorithm, train on them, and print what happened; runs in the copy."""
    config = unguarded(algorithm=NAME, sequence_cap=1e6)  # made-up engine logprobs are far from the policy's
    directory = Path.cwd()
    database = Database(f"sqlite:///{directory / 'test.db'}")
    migrations.upgrade(database.writer)
    with Session(database.writer) as session:
        record = Record(session)
        rewards = {"a": (1.5, "g"), "b": (0.5, "g"), "c": (0.0, "g"), "d": (1.0, "flat"), "e": (1.0, "flat")}
        for name, (reward, group) in rewards.items():
            record.episode(name, reward, group)
        selected, _ = record.chosen(NAME)
        batch = samples(session, selected)
    database.close()
    policy = tiny_policy(directory, config)
    weights = {name: p.detach().clone() for name, p in policy.trainable().items()}
    result = Trainer(policy, config).step(batch, 0)
    changed = any(not torch.equal(p, weights[name]) for name, p in policy.trainable().items())
    advantages = {one.episode_id: one.advantage for one in result.episodes}
    module = sys.modules[Trainer.__module__].__file__
    print(json.dumps({"learner": module, "selected": selected, "advantages": advantages, "changed": changed}))


def test_an_unknown_algorithm_is_refused_by_the_config_and_by_the_learner(tmp_path: Path) -> None:
    with pytest.raises(ValidationError) as refused:
        RunConfig.model_validate({"steps": 1, "algorithm": "unknown"})
    assert [(e["type"], e["loc"]) for e in refused.value.errors()] == [("literal_error", ("algorithm",))]
    unchecked = RunConfig(steps=1).model_copy(update={"algorithm": "unknown"})
    policy = tiny_policy(tmp_path)
    weights = {name: p.detach().clone() for name, p in policy.trainable().items()}
    with pytest.raises(BadInput, match="unknown algorithm 'unknown': this learner knows grpo, dr_grpo"):
        Trainer(policy, unchecked)
    with pytest.raises(ValueError, match="unknown algorithm 'unknown'"):
        unchecked.traits.groups  # noqa: B018
    assert all(torch.equal(p, weights[name]) for name, p in policy.trainable().items())


def test_a_registry_line_without_its_file_or_with_contradicting_traits_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ALGORITHMS, "no_file", AlgorithmTraits())
    with pytest.raises(ModuleNotFoundError, match=r"learner\.algorithms\.no_file"):
        algorithm_of(RunConfig(steps=1).model_copy(update={"algorithm": "no_file"}))
    monkeypatch.setitem(ALGORITHMS, "kl", AlgorithmTraits())
    with pytest.raises(TypeError, match=r"learner\.algorithms\.kl defines 0 algorithms"):
        algorithm_of(RunConfig(steps=1).model_copy(update={"algorithm": "kl"}))
    monkeypatch.setitem(ALGORITHMS, "rloo", AlgorithmTraits(off_policy=True))
    algorithm_of.__globals__["_class_of"].cache_clear()
    with pytest.raises(TypeError, match="rloo is off-policy and needs the imitation loss"):
        algorithm_of(RunConfig(steps=1).model_copy(update={"algorithm": "rloo"}))


@pytest.mark.parametrize(
    "traits",
    [
        {"episodes": "successes", "groups": "required"},
        {"episodes": "above_threshold", "groups": "optional"},
        {"episodes": "best_and_worst"},
        {"by_prompt": True},
    ],
    ids=str,
)
def test_a_registry_line_that_contradicts_itself_is_an_error(traits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="groups must"):
        AlgorithmTraits(**traits)


def test_every_file_with_an_algorithm_is_registered_under_its_name() -> None:
    files = {path.stem for path in (ROOT / "learner" / "algorithms").glob("*.py")} - {"__init__", "algorithm"}
    modules = {name: importlib.import_module(f"learner.algorithms.{name}") for name in files}
    defined = {
        name: one
        for name, module in modules.items()
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Algorithm) and one.__module__ == module.__name__
    }
    assert defined.keys() == ALGORITHMS.keys()
    assert {name: type(algorithm_of(RunConfig(steps=1, algorithm=name))) for name in ALGORITHMS} == defined


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('if config.algorithm == "grpo": pass', 1),
        ('OFF_POLICY = ("sft", "dpo")', 1),
        ('match name:\n    case "ppo" | "rloo": pass', 2),
        ('by_name = {"grpo": 1, "sft": 2}', 1),
        ('name.startswith("reinforce_pp")', 1),
        ('run = RunConfig(algorithm="sft"); form: Literal["ppo", "cispo"]', 0),
    ],
)
def test_the_search_finds_comparisons_with_algorithm_names(text: str, count: int) -> None:
    assert len(list(checks_of_names(ast.parse(text)))) == count


def test_no_code_outside_the_registry_tests_an_algorithms_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("server", "learner", "env_adapters", "clients", "benchmarks", "migrations")
        for path in (ROOT / package).rglob("*.py")
        if str(path.relative_to(ROOT)) != REGISTRY
        for line in checks_of_names(ast.parse(path.read_text()))
    ]
    assert found == [], "read a trait instead"


def checks_of_names(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that compare with an algorithm's name, or collect several names."""

    def names(parts: list[ast.expr | None]) -> list[bool]:
        return [isinstance(part, ast.Constant) and part.value in ALGORITHMS for part in parts]

    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            nested = [e for part in parts if isinstance(part, ast.Tuple | ast.Set | ast.List) for e in part.elts]
            if any(names([*parts])) or (any(names([*nested])) and not all(names([*nested]))):
                yield node.lineno
        elif isinstance(node, ast.MatchValue):
            if any(names([node.value])):
                yield node.lineno
        elif isinstance(node, ast.Tuple | ast.Set | ast.List):
            if node.elts and all(names([*node.elts])):
                yield node.lineno
        elif isinstance(node, ast.Dict):
            if any(names(node.keys)):
                yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and any(names([*node.args])):
            yield node.lineno
