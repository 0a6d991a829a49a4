"""The registry of environments: names, suggestions, collisions, and the deprecated spelling of an environment."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from env_adapters.protocol import UnknownTask
from env_adapters.registry import BUILT_IN, Registry
from tests.support.environments.episodes import MODULES

OLD = '''"""An environment with the deprecated names."""

from env_adapters.simple import SimpleFamily


def make_family():
    return SimpleFamily("old", "An old module.", object, {"train": ["a"], "test": ["b"]})
'''


def test_a_registry_adds_modules_without_touching_the_built_in_table() -> None:
    one, other = Registry(), Registry()
    assert one.add_modules(MODULES) == ["odd", "odd-thread", "odd/inline:x"]
    assert one.add_modules(MODULES[:1]) == ["odd"]
    assert set(one.names()) - set(BUILT_IN) == {"odd", "odd-thread", "odd/inline:x"}
    assert one.spec("odd/inline:x").isolation == "inline"
    assert other.names() == sorted(BUILT_IN)


def test_a_spec_is_loaded_once() -> None:
    registry = Registry()
    assert registry.spec("textcraft") is registry.spec("textcraft")
    assert registry.spec("gymnasium:CartPole-v1") is registry.spec("gymnasium:CartPole-v1")


def test_a_name_cannot_be_taken_twice() -> None:
    registry = Registry()
    registry.add_remote("maze", "openenv@http://127.0.0.1:1")
    for name in ("textcraft", "maze"):
        with pytest.raises(ValueError, match="already exists"):
            registry.add_module(name, "games.guess")


def test_a_misspelled_name_gets_a_suggestion() -> None:
    with pytest.raises(UnknownTask, match="did you mean 'textcraft'"):
        Registry().spec("textcraf")


def test_a_module_without_a_spec_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"env_adapters\.answer has no make_spec"):
        Registry().add_modules(["env_adapters.answer"])


def test_a_module_with_the_deprecated_names_still_loads_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "old_environment.py").write_text(OLD)
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry()
    with caplog.at_level(logging.WARNING):
        assert registry.add_modules(["old_environment"]) == ["old"]
        assert registry.spec("old").tasks("test") == ["b"]
    messages = [record.getMessage() for record in caplog.records]
    assert messages.count("old_environment: make_family() is deprecated, rename it to make_spec()") == 1
    assert messages.count("SimpleFamily is deprecated, use SimpleSpec") == 1


def test_only_the_command_needs_typer() -> None:
    code = "import sys, env_adapters.play, env_adapters.hosting.host; print('typer' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
