"""Images are refused in every dialect with an error that names the part, before anything is sampled."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.messages_request import CountRequest, MessagesRequest
from server.api.dialects.responses_request import ResponsesRequest
from server.errors import BadRequest

URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
INPUT = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
TEXT, INPUT_TEXT = {"type": "text", "text": "What is this?"}, {"type": "input_text", "text": "What is this?"}


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
@pytest.mark.parametrize(
    ("parts", "place", "said"),
    [
        ([TEXT, URL], 1, "not a part of type 'image_url'"),
        ([{"type": "input_audio", "input_audio": {}}], 0, "not a part of type 'input_audio'"),
        ([TEXT, TEXT, {"type": "text"}], 2, "as {type: text, text: ...}"),
        (["words"], 0, "as {type: text, text: ...}"),
    ],
)
def test_chat_names_the_part_that_is_not_text(role: str, parts: list[Any], place: int, said: str) -> None:
    body = ChatRequest(model="policy", messages=[{"role": "user", "content": "Hi"}, {"role": role, "content": parts}])
    with pytest.raises(BadRequest) as refused:
        body.turn_request(100, owner="", digest="")
    assert refused.value.param == f"messages[1].content[{place}]"
    assert str(refused.value) == f"{refused.value.param}: this model accepts text only, {said}"


@pytest.mark.parametrize(
    ("kind", "fields", "place", "said"),
    [
        (MessagesRequest, {"messages": [{"role": "user", "content": [TEXT, SOURCE]}]}, (1,), "'image'"),
        (CountRequest, {"messages": [{"role": "user", "content": [TEXT, SOURCE]}]}, (1,), "'image'"),
        (
            MessagesRequest,
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [SOURCE]}]}
                ]
            },
            (0,),
            "'image'",
        ),
        (ResponsesRequest, {"input": [{"role": "user", "content": [INPUT_TEXT, INPUT]}]}, (1,), "'input_image'"),
        (
            ResponsesRequest,
            {"input": [{"type": "function_call_output", "call_id": "a", "output": [INPUT]}]},
            (0,),
            "'input_image'",
        ),
    ],
)
def test_other_dialects_name_the_part_that_is_not_text(
    kind: type[BaseModel], fields: dict[str, Any], place: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({"model": "policy", "max_tokens": 5, **fields})
    (error,) = refused.value.errors()
    assert error["loc"][-1:] == place
    assert error["msg"].startswith("this model accepts text only, not a") and error["msg"].endswith(said)
