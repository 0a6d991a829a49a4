"""Stop strings: an empty one is refused in every dialect, and a part of a character is none."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.messages_request import MessagesRequest
from server.engines.protocol import SamplingParams
from server.errors import BadRequest

ASK = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("stop", ["", [""], ["a", ""]])
def test_an_empty_stop_string_is_refused(stop: Any) -> None:
    chat = ChatRequest(model="policy", messages=ASK, stop=stop)
    with pytest.raises(BadRequest, match="an empty string cannot end an answer"):
        chat.turn_request(100, owner="", digest="")
    listed = [stop] if isinstance(stop, str) else stop
    with pytest.raises(BadRequest, match="an empty string cannot end an answer"):
        SamplingParams(1, stop=tuple(listed))
    with pytest.raises(ValidationError, match="at least 1 character"):
        MessagesRequest(model="policy", messages=ASK, max_tokens=5, stop_sequences=listed)


@pytest.mark.parametrize("stop", [None, []])
def test_no_stop_string_is_none(stop: Any) -> None:
    chat = ChatRequest(model="policy", messages=ASK, stop=stop)
    assert chat.turn_request(100, owner="", digest="").sampling.stop == ()


def test_a_part_of_a_character_is_no_replacement_character() -> None:
    params = SamplingParams(10, stop=("\ufffd", "é"))
    answer = "a😀é".encode()
    read = [params.stops(answer[:end].decode(errors="replace")) for end in range(1, len(answer) + 1)]
    assert read == [False] * (len(answer) - 1) + [True]
    assert not params.stops(answer[3:5].decode(errors="replace"))
    assert params.stops("a\ufffdb")
