"""Which version answers a call of an episode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from server.errors import NotFound, Unavailable
from server.versions.routing import Pointers


def version(model: str | None, *, began_on: int, loaded: set[int], shared: bool = False) -> int:
    """Return the version for an episode's call, where the champion is version 1 and the head is version 2."""
    pointers = Pointers("policy", champion=2 if shared else 1, head=2, shared=shared)
    episode: Any = SimpleNamespace(id="ep_1", policy_version=began_on)
    engine: Any = SimpleNamespace(versions=loaded)
    return pointers.for_episode(episode, model, engine)


@pytest.mark.parametrize("model", [None, "policy"])
def test_an_episode_stays_on_the_version_it_began_on(model: str | None) -> None:
    assert version(model, began_on=0, loaded={0, 1, 2}) == 0
    assert version(model, began_on=2, loaded={2}, shared=True) == 2


@pytest.mark.parametrize("model", [None, "policy"])
def test_an_episode_whose_version_is_gone_continues_only_where_one_version_serves_all(model: str | None) -> None:
    assert version(model, began_on=0, loaded={2}, shared=True) == 2
    with pytest.raises(Unavailable, match="version 0, on which episode ep_1 began, is no longer loaded") as refused:
        version(model, began_on=0, loaded={1, 2})
    assert refused.value.code == "version_gone"


@pytest.mark.parametrize(("model", "expected"), [("policy@champion", 1), ("policy@head", 2), ("policy@0", 0)])
def test_a_call_that_names_a_version_gets_it_in_any_episode(model: str, expected: int) -> None:
    assert version(model, began_on=7, loaded={0, 1, 2}) == expected


@pytest.mark.parametrize("model", ["other", "policy@7", "other@head"])
def test_a_call_that_names_another_model_is_refused_in_any_episode(model: str) -> None:
    with pytest.raises(NotFound):
        version(model, began_on=0, loaded={0, 1, 2})
