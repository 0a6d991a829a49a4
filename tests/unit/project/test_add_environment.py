"""A new environment is one folder and one line in the registry; the rest of the project finds it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from env_adapters.registry import BUILT_IN, REGISTRY, Registry
from tests.support.live import Live, script, serving, settings_for
from upturn.wire import EpisodeOpen, PlayRequest

SPEC = '''"""Spell a word backwards."""

from env_adapters.protocol import Reset, Transition, UnknownTask
from env_adapters.simple import SimpleSpec

TASKS = {"train": ["lamp", "chair"], "test": ["mug"]}


class Backwards:
    def reset(self, task, seed):
        if task not in TASKS["train"] + TASKS["test"]:
            raise UnknownTask(f"no task {task!r}")
        self.word = task
        return Reset([{"role": "user", "content": f"Spell {task} backwards."}])

    def step(self, text):
        success = text.strip() == self.word[::-1]
        return Transition("Right." if success else "Wrong.", float(success), terminated=True, success=success)

    def oracle(self):
        return self.word[::-1]

    def random(self, rng):
        return "".join(rng.sample(self.word, len(self.word)))

    def close(self):
        pass


def make_spec():
    return SimpleSpec("backwards", "Spell a word backwards.", Backwards, TASKS)
'''
TABLE = {**BUILT_IN, "backwards": "added.backwards.spec"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write the environment's folder where Python can import it."""
    (tmp_path / "added" / "backwards").mkdir(parents=True)
    (tmp_path / "added" / "backwards" / "__init__.py").write_text('"""Backwards."""\n')
    (tmp_path / "added" / "backwards" / "spec.py").write_text(SPEC)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("added")]:
        del sys.modules[name]


@pytest.fixture
def live(folder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A server with a scripted engine, whose registry has the additional line."""
    monkeypatch.setattr(REGISTRY, "_built_in", TABLE)
    monkeypatch.setattr(REGISTRY, "_specs", {})
    model = script(tmp_path / "script", "pmal", "wrong")
    with serving(settings_for(tmp_path / "data", model=str(model))) as server:
        yield server


def test_one_folder_and_one_line_add_an_environment(folder: None) -> None:
    registry = Registry(TABLE)
    assert registry.names() == sorted([*BUILT_IN, "backwards"])
    spec = registry.spec("backwards")
    assert {split: spec.tasks(split) for split in spec.splits()} == {"train": ["lamp", "chair"], "test": ["mug"]}
    environment = spec.make()
    assert environment.reset("lamp", 0).messages == [{"role": "user", "content": "Spell lamp backwards."}]
    assert sorted(environment.random(random.Random(0))) == sorted("lamp")
    assert environment.oracle() == "pmal"
    right = environment.step(environment.oracle())
    assert (right.observation, right.reward, right.terminated, right.success) == ("Right.", 1.0, True, True)
    environment.close()


def test_the_built_in_table_is_immutable_and_every_line_has_its_folder() -> None:
    with pytest.raises(TypeError):
        BUILT_IN["backwards"] = "added.backwards.spec"  # type: ignore[index]
    root = Path(__file__).parents[3]
    assert all((root / name.replace(".", "/")).with_suffix(".py").is_file() for name in BUILT_IN.values())
    assert all(module == f"env_adapters.{name}.spec" for name, module in BUILT_IN.items())


def test_the_server_lists_opens_and_plays_the_new_environment(live: Live) -> None:
    assert "backwards" in [view["name"] for view in live.http.get("/v1/environments").json()["data"]]
    assert live.client.tasks("backwards", "test").tasks == ["mug"]
    episode = live.client.open_episode(EpisodeOpen(environment="backwards", task="mug"))
    assert live.client.step(episode.id, "gum").success
    for agent, success in (("policy", [True, False]), ("oracle", [True, True])):
        play = live.client.start_play(
            PlayRequest(environment="backwards", tasks=["lamp", "chair"], horizon=2, agent=agent)  # type: ignore[arg-type]
        )
        results = live.client.wait_for_play(play.id).results
        assert [result.success for result in sorted(results, key=lambda result: result.task, reverse=True)] == success
