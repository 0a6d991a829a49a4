"""Which plugins vLLM loads: the one for the token channel, and all others as without it."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import pytest

from server.engines.options import VllmOptions
from server.engines.vllm.command import environment
from server.engines.vllm.frames import TOKEN_PLUGIN, TOKEN_SOCKET


def test_the_token_channel_is_loaded_beside_every_plugin_that_vllm_would_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    variables = environment(VllmOptions(), Path("/somewhere/tokens"))
    names = variables["VLLM_PLUGINS"].split(",")
    assert variables[TOKEN_SOCKET] == "/somewhere/tokens"
    assert names[-1] == TOKEN_PLUGIN and len(set(names)) == len(names)
    assert {point.name for point in entry_points(group="vllm.general_plugins")} <= set(names)


@pytest.mark.parametrize(("configured", "loaded"), [("mine,other", f"mine,other,{TOKEN_PLUGIN}"), ("", None)])
def test_a_list_of_ones_own_is_kept(monkeypatch: pytest.MonkeyPatch, configured: str, loaded: str | None) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", configured)
    names = environment(VllmOptions(), Path("tokens"))["VLLM_PLUGINS"]
    assert names == (loaded or TOKEN_PLUGIN)


def test_the_installed_project_offers_the_plugin() -> None:
    (point,) = entry_points(group="vllm.endpoint_plugins", name=TOKEN_PLUGIN)
    assert point.value == "server.engines.vllm.endpoint:TokenEndpoint"
