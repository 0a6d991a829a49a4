"""Output of the client's subcommands: aligned columns for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from upturn.wire import Message


def print_json(value: Message | Sequence[Message]) -> None:
    """Print a message, or a list of messages, as indented JSON."""
    data = value.model_dump(mode="json") if isinstance(value, Message) else [m.model_dump(mode="json") for m in value]
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, each column as wide as its longest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for line in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def time_text(at: float | None) -> str:
    """Return a Unix time as local date and time, or `-`."""
    return "-" if at is None else datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M")


def share_text(share: float | None) -> str:
    """Return a share as a percentage, or `-`."""
    return "-" if share is None else f"{share:.1%}"
