"""When a server requires keys: always if other machines can reach it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from server.settings import Settings


@pytest.mark.parametrize(
    ("host", "keys", "required"),
    [
        ("127.0.0.1", "auto", False),
        ("::1", "auto", False),
        ("localhost", "auto", False),
        ("127.0.0.1", "off", False),
        ("127.0.0.1", "required", True),
        ("0.0.0.0", "auto", True),
        ("::", "auto", True),
        ("10.0.0.7", "auto", True),
        ("server.example", "auto", True),
        ("0.0.0.0", "required", True),
    ],
)
def test_keys_are_required_unless_the_server_listens_on_loopback_only(host: str, keys: str, required: bool) -> None:
    assert Settings.load(["--host", host, "--keys", keys]).keys_required is required


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "server.example", ""])
def test_a_reachable_address_without_keys_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="keys are off"):
        Settings.load([f"--host={host}", "--keys", "off"])


def test_the_learners_key_may_be_in_the_servers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPTURN_KEY", "up-something")
    assert Settings.load([]).keys == "auto"
