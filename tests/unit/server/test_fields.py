"""The table of fields: it covers the vendors' references, the code keeps to it, and mistakes get a hint."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import message_create_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from pydantic import BaseModel

from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.completions_request import CompletionRequest
from server.api.dialects.fields.check import MOST_UNKNOWN, check
from server.api.dialects.fields.page import with_table
from server.api.dialects.fields.table import FIELDS
from server.api.dialects.messages_request import CountRequest, MessagesRequest
from server.api.dialects.responses_request import ResponsesRequest
from server.errors import BadRequest

ASK = [{"role": "user", "content": "Hi"}]
REQUESTS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "chat": (ChatRequest, {"model": "policy", "messages": ASK}),
    "completions": (CompletionRequest, {"model": "policy", "prompt": "Hi"}),
    "messages": (MessagesRequest, {"model": "policy", "messages": ASK, "max_tokens": 9}),
    "responses": (ResponsesRequest, {"model": "policy", "input": "Hi"}),
}
CLIENTS = {
    "chat": [chat_create_params.CompletionCreateParamsBase],
    "completions": [completion_create_params.CompletionCreateParamsBase],
    "messages": [message_create_params.MessageCreateParamsBase, beta_create_params.MessageCreateParamsBase],
    "responses": [response_create_params.ResponseCreateParamsBase],
}
VLLM = {
    "chat": ("openai/chat_completion/protocol.py", "ChatCompletionRequest"),
    "completions": ("openai/completion/protocol.py", "CompletionRequest"),
    "messages": ("anthropic/protocol.py", "AnthropicMessagesRequest"),
    "responses": ("openai/responses/protocol.py", "ResponsesRequest"),
}


def asked(dialect: str, **fields: Any) -> list[str]:
    """Return the warnings for a request with these fields."""
    kind, body = REQUESTS[dialect]
    return check(dialect, kind.model_validate({**body, **fields}))


@pytest.mark.parametrize("dialect", FIELDS)
def test_every_field_of_the_vendors_clients_is_in_the_table(dialect: str) -> None:
    fields = set().union(*(kind.__annotations__ for kind in CLIENTS[dialect]))
    assert len(fields) > 15 and fields - FIELDS[dialect].keys() == set()


@pytest.mark.parametrize("dialect", FIELDS)
def test_every_field_of_vllms_routes_is_in_the_table(dialect: str) -> None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    path, name = VLLM[dialect]
    source = (Path(next(iter(spec.submodule_search_locations))) / "entrypoints" / path).read_text()
    (body,) = [
        node.body for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef) and node.name == name
    ]
    fields = {item.target.id for item in body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)}
    listed = {field for field in fields if not field.startswith("_")}
    assert len(listed) > 10 and listed - FIELDS[dialect].keys() == set()


@pytest.mark.parametrize("dialect", FIELDS)
def test_the_code_reads_exactly_the_fields_that_the_table_calls_honored(dialect: str) -> None:
    kind, _ = REQUESTS[dialect]
    honored = {name for name, field in FIELDS[dialect].items() if field.use == "honored"}
    assert set(kind.model_fields) == honored | (set(kind.model_fields) & {"store"})


@pytest.mark.parametrize("dialect", FIELDS)
def test_neutral_fields_pass_in_silence_and_refused_ones_are_named(dialect: str) -> None:
    for name, field in FIELDS[dialect].items():
        if field.use == "neutral" and name not in REQUESTS[dialect][0].model_fields:
            assert asked(dialect, **{name: {"any": ["thing"]}}) == []
        elif field.use == "refused":
            with pytest.raises(BadRequest, match=repr(name)) as refused:
                asked(dialect, **{name: "x"})
            assert (refused.value.code, refused.value.param) == ("unsupported_parameter", name)
            assert field.note in refused.value.message
            for harmless in (None, False, 0, [], {}, "", *field.accepts):
                assert asked(dialect, **{name: harmless}) == []


@pytest.mark.parametrize(
    ("dialect", "name", "meant"),
    [
        ("chat", "max_tokns", "max_tokens"),
        ("chat", "maxTokens", "max_tokens"),
        ("chat", "temprature", "temperature"),
        ("chat", "top-p", "top_p"),
        ("chat", "Stop", "stop"),
        ("completions", "echoo", "echo"),
        ("messages", "stop_sequence", "stop_sequences"),
        ("messages", "sytem", "system"),
        ("responses", "max_output_token", "max_output_tokens"),
        ("responses", "previous_respons_id", "previous_response_id"),
    ],
)
def test_a_mistyped_field_is_refused_with_the_right_name(dialect: str, name: str, meant: str) -> None:
    with pytest.raises(BadRequest, match=f"did you mean '{meant}'") as refused:
        asked(dialect, **{name: 1})
    assert refused.value.code == "unknown_parameter"
    assert asked(dialect, **{name: None}) == [], "null is the same as absent"


@pytest.mark.parametrize(
    ("dialect", "name", "hint"),
    [
        ("chat", "max_output_tokens", "max_completion_tokens"),
        ("chat", "stop_sequences", "use stop"),
        ("chat", "previous_response_id", "a field of responses, not of chat"),
        ("messages", "n", "a field of chat"),
        ("messages", "seed", "a field of chat"),
        ("responses", "max_tokens", "max_output_tokens"),
        ("completions", "messages", "use prompt"),
    ],
)
def test_a_field_of_another_dialect_is_refused_with_a_hint(dialect: str, name: str, hint: str) -> None:
    with pytest.raises(BadRequest, match=hint):
        asked(dialect, **{name: 1})


@pytest.mark.parametrize("dialect", FIELDS)
def test_other_unknown_fields_have_no_effect_and_are_named_in_a_warning(dialect: str) -> None:
    assert asked(dialect, foo=1, num_ctx=4096) == ["ignored unknown fields: foo, num_ctx"]
    (warning,) = asked(dialect, **{"größe\r\nx-evil: 1": 1, "y" * 5000: 2})
    assert warning.isascii() and "\n" not in warning and len(warning) < 200


@pytest.mark.parametrize("dialect", FIELDS)
def test_many_unknown_fields_are_refused_before_they_are_compared(dialect: str) -> None:
    with pytest.raises(BadRequest, match="unknown fields"):
        asked(dialect, **{f"field{number}": 1 for number in range(MOST_UNKNOWN + 1)})


def test_the_page_of_the_api_lists_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    assert page == with_table(page), "run: python -m server.api.dialects.fields.page docs/api.md"


def test_counting_tokens_accepts_the_same_fields() -> None:
    assert set(CountRequest.model_fields) < FIELDS["messages"].keys()
    with pytest.raises(BadRequest, match="mcp_servers"):
        check("messages", CountRequest.model_validate({"model": "m", "messages": ASK, "mcp_servers": [{"url": "x"}]}))


@pytest.mark.parametrize(
    ("dialect", "field"), [("chat", "max_tokens"), ("completions", "max_tokens"), ("messages", "max_tokens"),
                           ("responses", "max_output_tokens"), ("chat", "n"), ("chat", "seed")]
)  # fmt: skip
def test_a_whole_number_may_be_spelled_as_a_float(dialect: str, field: str) -> None:
    kind, body = REQUESTS[dialect]
    assert getattr(kind.model_validate({**body, field: 100.0}), field) == 100
    for wrong in (100.5, "100", True, float("inf")):
        with pytest.raises(ValueError, match=field):
            kind.model_validate({**body, field: wrong})
