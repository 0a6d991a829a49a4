"""A target of notifications: what delivers an event to people, and how it says that the event did not arrive."""

from __future__ import annotations

from typing import Protocol


class NotDelivered(Exception):
    """The event has not arrived. The message quotes no secret, no address, and nothing that the receiver said."""

    def __init__(self, message: str, *, refused: bool = False, retry_after_s: float = 0.0) -> None:
        """Say why.

        Args:
            message: the reason, in a few words.
            refused: the receiver understood and refused, so that trying again for a day is of no use.
            retry_after_s: shortest pause that the receiver asks for, in seconds.
        """
        super().__init__(message)
        self.refused = refused
        self.retry_after_s = retry_after_s


class Target(Protocol):
    """Delivers events, one at a time."""

    name: str
    """`webhook` or `command`."""

    async def deliver(self, event_id: str, body: bytes) -> None:
        """Deliver an event within the time limit of the settings.

        Args:
            event_id: the same at every attempt.
            body: the event as JSON.

        Raises:
            NotDelivered: the event has not arrived, as far as is known.
        """

    async def close(self) -> None:
        """Close connections."""
