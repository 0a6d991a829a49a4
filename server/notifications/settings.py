"""Settings of notifications."""

from __future__ import annotations

from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from server.notifications.signature import HOW, keys_of
from server.section import Section, VariableName

EventType = Literal[
    "policy.promoted",
    "policy.canary",
    "policy.continued",
    "policy.rejected",
    "policy.flagged",
    "policy.rolled_back",
    "run.failed",
    "run.empty",
    "run.waiting",
    "disk.full",
    "disk.free",
]
EVENTS: tuple[EventType, ...] = get_args(EventType)
"""All types of events."""


class NotifySettings(Section):
    """Who learns of promotions, rollbacks, failed, empty, or waiting runs, and a full disk.

    Without `webhook` and `command`, nobody does.
    """

    webhook: SecretStr | None = None
    """URL that gets each event as a signed POST. It is never shown, since the URLs of many services hold a token."""
    secret: SecretStr | None = None
    """Signs the webhook's requests: `whsec_` and 24 to 64 bytes in base64. Set it as `UPTURN_NOTIFY__SECRET`; it is
    never shown. Two secrets separated by a space sign twice, while receivers change from one to the other."""
    command: list[Annotated[str, Field(pattern=r"^[^\x00]*$")]] = []
    """Program and arguments, such as `["/opt/tell", "--team", "agents"]`: gets each event as JSON on its standard
    input. Status 0 means that the event has arrived."""
    env: list[VariableName] = []
    """Environment variables of the server that the command gets in addition to a fixed list without secrets."""
    events: list[EventType] = Field(default=list(EVENTS), min_length=1)
    """Which events are sent."""
    waiting_h: float = Field(default=24.0, gt=0, le=8760)
    """Hours without a new step after which an unfinished run is reported as `run.waiting`."""
    server: str | None = Field(default=None, min_length=1, max_length=200)
    """Name of this server in each event; default: the name of the machine."""
    timeout_s: float = Field(default=15.0, gt=0, le=25)
    """Seconds after which an attempt to deliver an event has failed."""

    @model_validator(mode="after")
    def the_webhook_is_an_address_and_signed(self) -> NotifySettings:
        """Refuse what is not a URL, and a webhook without a secret. No message quotes either."""
        if self.webhook is not None:
            _check_url(self.webhook.get_secret_value())
            if self.secret is None:
                raise ValueError(f"webhook needs a secret that signs its requests: {HOW}")
        if self.secret is not None:
            keys_of(self.secret.get_secret_value())
        return self

    @model_validator(mode="after")
    def the_command_names_a_program(self) -> NotifySettings:
        """Refuse an empty program name."""
        if self.command and not self.command[0].strip():
            raise ValueError("command needs the name of a program as its first element")
        return self

    @model_validator(mode="after")
    def disk_free_ends_disk_full(self) -> NotifySettings:
        """Refuse `disk.free` alone: it says that an event `disk.full` is over."""
        if "disk.free" in self.events and "disk.full" not in self.events:
            raise ValueError("events has disk.free without disk.full, whose end it reports: add disk.full")
        return self


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # A port that is not a number, a broken IPv6 address.
        valid = False
    if not valid or any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("webhook must be an address that begins with http:// or https:// and a host")
