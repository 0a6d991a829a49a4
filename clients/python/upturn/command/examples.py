"""Examples at the end of a command's help."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """Return an epilog that lists command lines; a test reads each of them as the shell would pass it."""
    return "\n\n".join(["Examples:", *(f"- `{line}`" for line in lines)])
