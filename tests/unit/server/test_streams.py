"""Events of a stream whose texts alone change."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.dialects.streams import TextEvent, event


@pytest.mark.parametrize("text", ["", "Hi", 'say "no"\\\n', "café 🎉", "half \ud83c", TextEvent.PLACE])
def test_an_event_with_another_text_is_the_event_of_that_text(text: str) -> None:
    def body(said: str) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": said}, "logprobs": None}]}

    assert TextEvent(body(TextEvent.PLACE)).with_text(text) == event(body(text))
