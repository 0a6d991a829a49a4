"""Notifications: the events that a webhook or a command gets, and the test of the way to them."""

from __future__ import annotations

from typing import Literal

from upturn.wire.base import Message

OFF = "notifications are off: set notify.webhook and notify.secret, or notify.command"
"""What is said where no target is configured."""


class NotificationView(Message):
    """One event for one target."""

    id: str
    """Id of the event, the same for all targets and attempts."""
    type: str
    """Such as `policy.promoted`."""
    target: str
    """`webhook` or `command`."""
    state: Literal["waiting", "sent", "given_up"]
    text: str
    """The event in one sentence."""
    attempts: int
    error: str | None
    """Why the last attempt failed."""
    created_at: float
    tried_at: float | None
    """When the last attempt began."""


class NotificationList(Message):
    """The newest notifications, newest first."""

    targets: list[str]
    """The configured targets; empty if notifications are off."""
    data: list[NotificationView]


class TargetTest(Message):
    """What became of the test message to one target."""

    target: str
    arrived: bool
    error: str | None
    """Why it did not arrive."""


class NotificationTest(Message):
    """What became of the test message, by target."""

    data: list[TargetTest]
