"""OpenAI's chat request, and its translation into a `TurnRequest`. Other dialects are translated into it."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field

from server.api.dialects.chat_messages import plain_messages, prefilled
from server.api.dialects.fields.sampling import SamplingFields, Whole
from server.api.dialects.tools.chat_tools import Choice, Function, FunctionCall, Options, Tool, chosen, read_tools
from server.engines.protocol import SamplingParams
from server.errors import BadRequest
from server.recording.turn_request import TurnRequest
from upturn.wire import check_metadata

MOST_MESSAGES = 10_000
MOST_TOOLS = 4096
LARGEST_OPTIONS = 4096
"""Maximum characters of JSON in `chat_template_kwargs`."""


class StreamOptions(Options):
    """Options of a stream."""

    include_usage: bool = False


class JsonSchema(Options):
    """A named JSON schema for the answer."""

    name: str
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(Options):
    """Format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_of_answer(self) -> dict[str, Any] | None:
        """Return the schema that constrains the answer: None for text, an empty schema for any JSON object."""
        if self.type == "json_schema" and self.json_schema is None:
            raise BadRequest("response_format of type json_schema requires json_schema", param="response_format")
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema is not None else {}


class ChatRequest(SamplingFields):
    """OpenAI's request, with further fields of vLLM's. `fields/table.py` lists every field."""

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Whole | None = Field(default=None, ge=1)
    max_completion_tokens: Whole | None = Field(default=None, ge=1)
    n: Whole | None = Field(default=None, ge=1, le=128)
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=20)
    return_token_ids: bool | None = None
    """Show the ids of the prompt and of the answer."""
    return_tokens_as_token_ids: bool | None = None
    """Write tokens of logprobs as `token_id:N`."""
    include_reasoning: bool | None = None
    """Show the thoughts; the default."""
    metadata: Any = None
    tools: list[Tool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = Field(default=None, max_length=MOST_TOOLS)
    function_call: FunctionCall | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, max_length=32)
    """Extra variables for the model's chat template, such as `{"enable_thinking": false}`."""
    enable_thinking: bool | None = None
    continue_final_message: bool | None = None
    """Continue the last message, which the caller began in the assistant's name."""
    add_generation_prompt: bool | None = None
    """The answer is a message of its own; false goes with `continue_final_message`."""

    @property
    def legacy(self) -> bool:
        """Whether calls have OpenAI's older form, `function_call`."""
        return bool(self.functions)

    def turn_request(
        self, context_tokens: int, *, owner: str, digest: str, idempotency_key: str | None = None, weight: int = 0
    ) -> TurnRequest:
        """Return the equivalent `TurnRequest`.

        Raises:
            BadRequest: the request uses an unsupported feature, or its fields contradict each other.
        """
        self._check_numbers()
        tools = read_tools(self.tools or (), self.tool_choice, self.functions or (), self.function_call)
        messages = self._checked_messages()
        prefill = self._prefill(messages)
        if prefill and tools.call is not None:
            raise BadRequest("an answer that is begun by the caller cannot be a forced tool call", param="tool_choice")
        return TurnRequest(
            messages=messages[:-1] if prefill else messages,
            sampling=self._sampling(context_tokens),
            tools=tools.functions,
            call=tools.call,
            template_options=self._template_options(),
            reads_calls=tools.reads_calls,
            parallel_calls=self.parallel_tool_calls is not False and not self.legacy,
            count=self.n or 1,
            digest=digest,
            owner=owner,
            idempotency_key=idempotency_key,
            logprobs=bool(self.logprobs),
            whole=not self.stream,
            weight=weight,
            prefill=prefill,
        )

    @property
    def choice(self) -> Literal["auto", "required", "named"]:
        """Whether the answer must call a tool, or one particular tool."""
        _, call = chosen(self.function_call if self.functions else self.tool_choice)
        return "auto" if call is None else "named" if call else "required"

    def _prefill(self, messages: list[dict[str, Any]]) -> str:
        """Return the beginning of the answer, if the caller wrote it."""
        if self.add_generation_prompt and self.continue_final_message:
            raise BadRequest(
                "continue_final_message and add_generation_prompt cannot both be true", param="add_generation_prompt"
            )
        if self.add_generation_prompt is False and not self.continue_final_message:
            raise BadRequest("add_generation_prompt false needs continue_final_message", param="add_generation_prompt")
        return prefilled(messages, wanted=bool(self.continue_final_message))

    def _check_numbers(self) -> None:
        """Refuse NaN and numbers beyond a float's range, which the record could not hold: Python parses both."""
        fields = self.model_dump(exclude_unset=True)
        if _is_finite(fields):
            return
        name = next(name for name, value in fields.items() if not _is_finite(value))
        raise BadRequest(f"{name} contains a number that is not finite", param=name)

    def _template_options(self) -> dict[str, Any]:
        options = dict(self.chat_template_kwargs or {})
        if self.enable_thinking is not None:
            options.setdefault("enable_thinking", self.enable_thinking)
        if len(json.dumps(options)) > LARGEST_OPTIONS:
            raise BadRequest(
                f"chat_template_kwargs is longer than {LARGEST_OPTIONS} characters", param="chat_template_kwargs"
            )
        return options

    def _checked_messages(self) -> list[dict[str, Any]]:
        """Return the messages, checked for what chat templates rely on; the role developer becomes system."""
        messages = plain_messages(self.messages)
        for position, message in enumerate(messages):
            where = f"messages[{position}]"
            if not isinstance(message.get("role"), str):
                raise BadRequest(f"{where} has no role", param=where)
            content = message.get("content")
            if isinstance(content, list):
                _check_parts(f"{where}.content", content)
            if not isinstance(content, str | list | None):
                raise BadRequest(f"{where}: content must be a string or a list of text parts", param=where)
            if not _are_calls(message.get("tool_calls")):
                raise BadRequest(f"{where}: tool_calls must be a list of function calls", param=where)
        return [{**message, "role": "system"} if message["role"] == "developer" else message for message in messages]

    def _sampling(self, context_tokens: int) -> SamplingParams:
        if isinstance(self.metadata, dict):
            try:
                check_metadata(self.metadata)
            except ValueError as error:
                raise BadRequest(str(error), param="metadata") from error
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        return self.sampling(
            self.max_completion_tokens or self.max_tokens or context_tokens,
            top_logprobs=self.top_logprobs or 0,
            json_schema=self.response_format.schema_of_answer() if self.response_format else None,
        )


def _is_finite(value: Any) -> bool:
    """Return whether a value of JSON contains finite numbers only."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _check_parts(where: str, parts: list[Any]) -> None:
    """Refuse content that is not text, such as an image, and name the part."""
    for position, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            continue
        wrong = (
            f"not a part of type {str(kind)[:100]!r}" if kind not in (None, "text") else "as {type: text, text: ...}"
        )
        place = f"{where}[{position}]"
        raise BadRequest(f"{place}: this model accepts text only, {wrong}", param=place)


def _are_calls(calls: Any) -> bool:
    if calls is None:
        return True
    return isinstance(calls, list) and all(
        isinstance(call, dict)
        and isinstance(call.get("function"), dict)
        and isinstance(call["function"].get("name"), str)
        and isinstance(call["function"].get("arguments"), str | None)
        for call in calls
    )
