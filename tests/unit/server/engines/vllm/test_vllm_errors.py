"""What a caller reads of vLLM's errors."""

from __future__ import annotations

import pytest

from server.engines.vllm.answer import error_of
from server.errors import BadRequest, ContextTooLong, EngineError, NotFound


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"error": {"message": "stop cannot contain", "type": "BadRequestError", "code": 400}}',
            "stop cannot contain",
        ),
        ('{"error": "no such route"}', "no such route"),
        ('{"object": "error", "message": "old form", "code": 400}', "old form"),
        (
            '{"detail": [{"loc": ["body"], "msg": "must be positive"}, {"msg": "too long"}]}',
            "must be positive; too long",
        ),
        ("plain words", "plain words"),
        ("{}", "an error without a message"),
    ],
)
def test_an_error_of_vllm_is_passed_on_as_a_sentence_without_its_json(text: str, said: str) -> None:
    error = error_of(400, text)
    assert isinstance(error, BadRequest) and error.message == f"vLLM: {said}"
    assert error_of(500, text, "/pause").message == f"vLLM answered 500: /pause: {said}"


def test_the_status_of_vllm_decides_the_error() -> None:
    assert isinstance(error_of(404, '{"error": {"message": "no model"}}'), NotFound)
    assert isinstance(error_of(400, '{"error": {"message": "the maximum context length is 9"}}'), ContextTooLong)
    assert isinstance(error_of(503, "busy"), EngineError)
