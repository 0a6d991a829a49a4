"""Errors that become responses."""

from __future__ import annotations

from server.errors import MOST_CHARACTERS, NotFound


def test_an_error_quotes_a_bounded_part_of_what_the_caller_sent() -> None:
    error = NotFound(f"no model {'x' * 200_000}", param="y" * 200_000).body()["error"]
    assert error["message"] == f"no model {'x' * 200_000}"[:2000] + " [cut]"
    assert len(error["param"]) == MOST_CHARACTERS == 2000
    assert NotFound("no model 'gpt-9'").message == "no model 'gpt-9'"
