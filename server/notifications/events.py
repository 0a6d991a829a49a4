"""What an event says: its fields, and their form in a message. Never text of conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from server.notifications.settings import EventType
from server.store.database import new_id

MOST_CHARACTERS = 500
"""Length of a text beyond which it is cut."""
MOST_OBJECTIONS = 10
TEST = "notification.test"
"""Type of the event that only tests the way to a target."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    type: EventType | str
    key: str
    """What it reports; the same event has the same key."""
    at: float
    """When it happened, in Unix seconds."""
    text: str
    """One sentence for people."""
    run: str | None = None
    version: int | None = None
    """The version that it is about."""
    champion: int | None = None
    """The version that serves live traffic from then on."""
    decided_by: str | None = None
    reason: str | None = None
    objections: Sequence[str] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    path: str | None = None
    """Path of the server's API that shows more."""
    id: str = field(default_factory=lambda: new_id("evt"))

    def payload(self, server: str, event_id: str) -> dict[str, Any]:
        """Return the message: every event has all fields.

        Args:
            server: name of this server.
            event_id: the id under which the event is known already, or its own.
        """
        return {
            "id": event_id,
            "type": self.type,
            "timestamp": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "server": one_line(server),
            "text": one_line(self.text, 2 * MOST_CHARACTERS),
            "run": self.run,
            "version": self.version,
            "champion": self.champion,
            "decided_by": None if self.decided_by is None else one_line(self.decided_by),
            "reason": None if self.reason is None else one_line(self.reason),
            "objections": [one_line(objection) for objection in self.objections[:MOST_OBJECTIONS]],
            "figures": dict(self.figures),
            "path": self.path,
        }


def one_line(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return a text on one line, without control characters, and cut if it is too long."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(plain.split())
    return line if len(line) <= most else f"{line[: most - 6]} [cut]"
