"""OpenAI's request for a response, and its translation into a chat request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.translation import Lenient, TextOr, checked, only
from server.errors import BadRequest

INSTRUCTIONS = "instructions"
"""Id of the recorded message made from `instructions`, which the next response does not inherit."""
UNSUPPORTED = ("background", "conversation", "prompt")
_ITEMS = ("message", "function_call", "function_call_output", "reasoning")
_TEXTS = ("input_text", "output_text", "text")


class TextPart(Lenient):
    """A text part of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str


_Texts = TextOr[Annotated[TextPart, only(_TEXTS, "this model accepts text only, not a part of type")]]


class MessageItem(Lenient):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    id: Any = None
    role: Literal["user", "assistant", "system", "developer"]
    content: _Texts


class FunctionCall(Lenient):
    """A call by the model."""

    type: Literal["function_call"]
    id: Any = None
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(Lenient):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: _Texts


class ReasoningText(Lenient):
    """A part of the reasoning."""

    type: Literal["reasoning_text"]
    text: str


class Reasoning(Lenient):
    """The model's reasoning, sent back."""

    type: Literal["reasoning"]
    id: Any = None
    content: list[ReasoningText] | None = None


def _kind(item: Any) -> str:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return kind if isinstance(kind, str) else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")],
    Discriminator(_kind),
    only(_ITEMS, "this server does not support items of type"),
]


class FunctionTool(Lenient):
    """A tool that the caller runs."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


Tool = Annotated[FunctionTool, only(("function",), "this server does not run tools itself, such as")]


class FunctionChoice(Lenient):
    """A forced tool choice."""

    type: Literal["function"]
    name: str


class TextFormat(Lenient):
    """Format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TextConfig(Lenient):
    """Options of the answer's text."""

    format: TextFormat | None = None


class ResponsesRequest(Lenient):
    """The request. Fields not listed here are ignored."""

    model: str
    input: TextOr[Item]
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Tool] | None = Field(default=None, max_length=256)
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[FunctionChoice, only(("function",), "this server does not support a tool choice of type")]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    user: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None

    def chat(self, before: list[dict[str, Any]]) -> ChatRequest:
        """Return the equivalent chat request.

        Args:
            before: messages of the previous response, including its answer.

        Raises:
            BadRequest: the request uses an unsupported feature.
        """
        for name in UNSUPPORTED:
            if getattr(self, name):
                raise BadRequest(f"this server does not support {name!r}", param=name, code="unsupported_parameter")
        head = [{"role": "system", "content": self.instructions, "id": INSTRUCTIONS}] if self.instructions else []
        kept = before[1:] if before and before[0].get("id") == INSTRUCTIONS else before
        new = [{"role": "user", "content": self.input}] if isinstance(self.input, str) else _messages(self.input)
        choice = self.tool_choice
        return checked(
            ChatRequest,
            {
                "model": self.model,
                "messages": [*head, *kept, *new],
                "stream": self.stream,
                "tools": [
                    {"type": "function", "function": tool.model_dump(include={"name", "description", "parameters"})}
                    for tool in self.tools or []
                ]
                or None,
                "tool_choice": {"type": "function", "function": {"name": choice.name}}
                if isinstance(choice, FunctionChoice)
                else choice,
                "parallel_tool_calls": self.parallel_tool_calls,
                "response_format": self._format(),
                "max_tokens": self.max_output_tokens,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "metadata": self.metadata,
                "user": self.user,
                "safety_identifier": self.safety_identifier,
                "prompt_cache_key": self.prompt_cache_key,
            },
        )

    def returned(self) -> tuple[str, ...]:
        """Return the ids of earlier responses and output items that the request contains, the newest first."""
        items = [] if isinstance(self.input, str) else self.input
        ids = [item.id for item in reversed(items) if not isinstance(item, FunctionCallOutput)]
        return tuple(each for each in (*ids, self.previous_response_id) if isinstance(each, str))

    def _format(self) -> dict[str, Any] | None:
        form = self.text.format if self.text else None
        if form is None:
            return None
        if form.type != "json_schema":
            return {"type": form.type}
        if form.schema_ is None:
            raise BadRequest("text.format of type json_schema requires a schema", param="text.format.schema")
        return {"type": form.type, "json_schema": {"name": form.name, "schema": form.schema_}}


def _messages(items: list[Item]) -> list[dict[str, Any]]:
    """Return chat messages: one answer of the model arrives as several items."""
    messages: list[dict[str, Any]] = []
    answer: dict[str, Any] | None = None
    """The answer to which the next item may belong."""
    thoughts = ""
    for item in items:
        if isinstance(item, Reasoning):
            answer, thoughts = None, "".join(part.text for part in item.content or [])
        elif isinstance(item, FunctionCallOutput):
            answer = None
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        elif isinstance(item, MessageItem) and item.role != "assistant":
            answer = None
            messages.append({"role": item.role, "content": _text(item.content)})
        else:
            if answer is None or (isinstance(item, MessageItem) and "tool_calls" not in answer):
                answer = {"role": "assistant", "content": ""}
                if thoughts:
                    answer["reasoning_content"], thoughts = thoughts, ""
                messages.append(answer)
            if isinstance(item, MessageItem):
                answer["content"] += _text(item.content)
            else:
                answer.setdefault("tool_calls", []).append(
                    {
                        "id": item.call_id,
                        "type": "function",
                        "function": {"name": item.name, "arguments": item.arguments},
                    }
                )
    return messages


def _text(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
