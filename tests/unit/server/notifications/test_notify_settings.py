"""The settings of notifications: what is wrong is refused in one sentence that shows no secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server.configuration.errors import explain
from server.notifications.notifications import make_targets
from server.notifications.settings import NotifySettings
from server.notifications.signature import headers, keys_of
from server.section import SettingsError
from server.settings import Settings
from tests.support.notifications.receiver import SECRET

URL = "https://hooks.example.com/services/T0/TOKEN"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"webhook": "hooks.example.com/TOKEN"}, "http:// or https://"),
        ({"webhook": "ftp://hooks.example.com/TOKEN"}, "http:// or https://"),
        ({"webhook": "https://"}, "http:// or https://"),
        ({"webhook": "https://h:port/TOKEN"}, "http:// or https://"),
        ({"webhook": "https://h/TO KEN"}, "http:// or https://"),
        ({"webhook": "https://h/TOKEN\r\nx: y"}, "http:// or https://"),
        ({"webhook": ""}, "http:// or https://"),
        ({"webhook": 5170}, "notify.webhook"),
        ({"webhook": URL}, "webhook needs a secret"),
        ({"webhook": URL, "secret": "TOKEN"}, "begin with whsec_"),
        ({"webhook": URL, "secret": "whsec_TOKEN!"}, "base64"),
        ({"webhook": URL, "secret": "whsec_" + base64.b64encode(b"TOKEN").decode()}, "24 to 64 bytes, not 5"),
        ({"webhook": URL, "secret": " "}, "secret is empty"),
        ({"secret": 5170}, "notify.secret"),
        ({"command": [""]}, "name of a program"),
        ({"command": "tell"}, "list"),
        ({"command": ["tell", "a\x00b"]}, "command"),
        ({"events": []}, "at least 1"),
        ({"events": ["policy.promotet"]}, "policy.promoted"),
        ({"events": ["disk.free"]}, "add disk.full"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"timeout_s": 60}, "less than or equal to 25"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"server": ""}, "server"),
        ({"url": URL}, "no such setting"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence_without_their_secrets(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"notify": changes})
    (line, *more) = explain(caught.value, Settings)
    assert said in line and not more
    assert "TOKEN" not in line and "5170" not in line and "\n" not in line


def test_a_program_that_does_not_exist_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no program 'no-such-program-anywhere'"):
        make_targets(NotifySettings(command=["no-such-program-anywhere"]), tmp_path)


def test_secret_and_address_are_not_shown_with_the_settings() -> None:
    settings = NotifySettings.model_validate({"webhook": URL, "secret": SECRET})
    assert "TOKEN" not in f"{settings!r} {settings}" and SECRET not in f"{settings!r} {settings.model_dump()}"
    assert SECRET not in settings.model_dump_json()


def test_a_signature_is_that_of_standard_webhooks_and_two_secrets_make_two() -> None:
    # The specification's own example of a secret, as in its libraries' tests.
    (key,) = keys_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    both = headers(keys_of(f"{SECRET} whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "a", 1, b"{}")
    first, second = both["webhook-signature"].split()
    expected = base64.b64encode(hmac.digest(bytes(range(32)), b"a.1.{}", hashlib.sha256)).decode()
    assert first == f"v1,{expected}" and second.startswith("v1,") and first != second
