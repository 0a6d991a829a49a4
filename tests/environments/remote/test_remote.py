"""Remote environments: their registration, names, splits and failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from env_adapters import REGISTRY, environment_spec
from env_adapters.protocol import EnvironmentFailure, UnknownTask
from env_adapters.remote.agentgym_kinds import KINDS
from env_adapters.remote.connection import place
from tests.support.environments.addresses import named

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "agentgym:KIND@URL, openenv@URL"),
        ("ftp@http://host", "not 'ftp'"),
        ("http://host:8000", "not 'http'"),
        ("openenv@", "not a URL"),
        ("openenv@host:8000", "not a URL"),
        ("openenv@file:///etc/passwd", "not a URL"),
        ("mcp@http://", "not a URL"),
        ("mcp@http://host/mcp?x=1", "not a URL"),
        ("mcp@http://host:99999/", "Port"),
        ("mcp@http://host/mcp#finish", "#end=TOOL"),
        ("mcp@http://host/mcp#end=", "#end=TOOL"),
        ("agentgym@http://host", "no kind"),
        ("agentgym:chess@http://host", "no kind 'chess'"),
        ("agentgym:textcraft@host", "not a URL"),
        ("openenv:x@http://host", "not a URL"),
    ],
)
def test_a_malformed_address_is_refused_with_the_allowed_forms(spec: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        REGISTRY.add_remote("elsewhere", spec)
    assert "elsewhere" not in REGISTRY.names()


def test_a_name_is_unique_and_never_shadows_another_environment() -> None:
    name = named("openenv@http://127.0.0.1:1")
    REGISTRY.add_remote(name, "openenv@http://127.0.0.1:1")
    assert name in REGISTRY.names()
    for taken, spec in (
        (name, "openenv@http://127.0.0.1:2"),
        (name, "mcp@http://127.0.0.1:1"),
        ("textcraft", "openenv@http://127.0.0.1:1"),
    ):
        with pytest.raises(ValueError, match="already"):
            REGISTRY.add_remote(taken, spec)
    for bad in ("", "A", "a b", "gymnasium:x", "../x", "x" * 65):
        with pytest.raises(ValueError, match="not a name"):
            REGISTRY.add_remote(bad, "openenv@http://127.0.0.1:1")


def test_only_the_registry_decides_which_servers_are_contacted() -> None:
    for name in ("openenv@http://127.0.0.1:1", "openenv:http://127.0.0.1:1", "mcp:x", "agentgym:textcraft"):
        with pytest.raises(UnknownTask):
            environment_spec(name)


def test_a_key_in_a_url_is_sent_as_a_bearer_token_and_never_displayed() -> None:
    where = place("https://sk%2Dsecret@example.org:8443/env/")
    assert (where.url, where.headers) == ("https://example.org:8443/env", {"authorization": "Bearer sk-secret"})
    found = environment_spec(named("openenv@https://sk-secret@example.org/env"))
    assert "example.org" in found.description and "secret" not in found.description


def test_listing_sends_no_request_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from env_adapters import REGISTRY, environment_spec\n"
        "for name, spec in (('a', 'agentgym:babyai@http://h'), ('b', 'openenv@http://h'), ('c', 'mcp@http://h')):\n"
        "    REGISTRY.add_remote(name, spec); environment_spec(name).tasks('train'); environment_spec(name).tools\n"
        "print(sorted({'httpx2', 'websockets', 'numpy', 'gymnasium'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("spec", [*(f"agentgym:{kind}@http://h" for kind in KINDS), "openenv@http://h", "mcp@http://h"])
def test_splits_are_disjoint_bounded_and_the_same_everywhere(spec: str) -> None:
    found = environment_spec(named(spec))
    train, test = found.tasks("train"), found.tasks("test")
    assert train and test and not set(train) & set(test)
    assert len(train) + len(test) <= 5000
    if len(train) + len(test) > 300:
        assert 0.15 < len(test) / (len(train) + len(test)) < 0.25
    with pytest.raises(UnknownTask, match="train and test"):
        found.tasks("validation")


@pytest.mark.parametrize(
    ("spec", "task"),
    [("agentgym:textcraft@http://127.0.0.1:9", "textcraft/0"), ("openenv@http://127.0.0.1:9", "seed-0")],
)
def test_an_unreachable_server_is_a_failure_of_the_environment(spec: str, task: str) -> None:
    env = environment_spec(named(spec)).make()
    with pytest.raises(EnvironmentFailure, match="ConnectError"):
        env.reset(task, 0)
    env.close()
    env.close()


def test_an_unreachable_mcp_server_fails_when_an_instance_is_made() -> None:
    found = environment_spec(named("mcp@http://127.0.0.1:9/mcp"))
    assert found.tools == []
    with pytest.raises(EnvironmentFailure, match="ConnectError"):
        found.make()
