"""A server with the odd test environments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from env_adapters.search.spec import Search, make_spec
from server.environments.settings import EnvironmentSettings
from tests.support.environments.episodes import MODULES, Serve
from tests.support.live import Live, script, serving, settings_for


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Return a function that starts a server with a model's answers and settings of environments."""
    with ExitStack() as servers:

        def start(*answers: str, data: str = "data", **environments: Any) -> Live:
            model = script(tmp_path / "script", *(answers or ("win",)))
            return servers.enter_context(
                serving(
                    settings_for(
                        tmp_path / data,
                        model=str(model),
                        environments=EnvironmentSettings(**{"modules": MODULES, "workers": 1, **environments}),
                    )
                )
            )

        yield start


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for indexes other than the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def spec(cache: Path) -> Search:
    return make_spec()
