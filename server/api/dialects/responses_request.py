"""OpenAI's request for a response, and its translation into a chat request."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from server.api.dialects.chat_request import MOST_TOOLS, ChatRequest
from server.api.dialects.fields.sampling import SamplingFields, Whole
from server.api.dialects.hints import CALLER_FIELDS
from server.api.dialects.tools.custom import arguments_of
from server.api.dialects.tools.responses_tools import Tool, flat, functions, left_out, resolve
from server.api.dialects.translation import Lenient, TextOr, checked, only
from server.errors import BadRequest

INSTRUCTIONS = "instructions"
"""Id of the recorded message made from `instructions`, which the next response does not inherit."""
_ITEMS = (
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
    "item_reference",
)
_HOSTED_ITEMS = (
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "tool_search_call",
    "tool_search_output",
    "mcp_list_tools",
    "mcp_call",
    "compaction_trigger",
)
"""Items of what OpenAI's servers did, which are left out."""
_LOGPROBS = "message.output_text.logprobs"
_CHOICES = ("function", "custom", "allowed_tools")
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
    namespace: str | None = None
    arguments: str


class CustomCall(Lenient):
    """A call of a custom tool by the model."""

    type: Literal["custom_tool_call"]
    id: Any = None
    call_id: str
    name: str
    namespace: str | None = None
    input: str

    @property
    def arguments(self) -> str:
        """The arguments of the function that the model sees."""
        return arguments_of(self.input)


class FunctionCallOutput(Lenient):
    """The result of a call."""

    type: Literal["function_call_output", "custom_tool_call_output"]
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


class ItemReference(Lenient):
    """An item of an earlier response, which is on record."""

    type: Literal["item_reference"] | None = None
    id: str


class HostedItem(Lenient):
    """An item that is left out."""

    type: str


def _kind(item: Any) -> str:
    kind = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    if kind in _HOSTED_ITEMS:
        return "hosted"
    if kind is None and isinstance(item, dict) and "role" not in item and "id" in item:
        return "item_reference"
    kind = kind if isinstance(kind, str) else "message"
    return "function_call_output" if kind == "custom_tool_call_output" else kind


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[CustomCall, Tag("custom_tool_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[HostedItem, Tag("hosted")],
    Discriminator(_kind),
    only((*_ITEMS, *_HOSTED_ITEMS), "this server does not support items of type"),
]


class NamedChoice(Lenient):
    """A forced tool choice."""

    type: Literal["function", "custom"]
    name: str


class AllowedChoice(Lenient):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]] = Field(min_length=1, fail_fast=True)


class TextFormat(Lenient):
    """Format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TextConfig(Lenient):
    """Options of the answer's text."""

    format: TextFormat | None = None


class ResponsesRequest(SamplingFields):
    """OpenAI's request, with further fields of vLLM's. `fields/table.py` lists every field."""

    model: str
    input: TextOr[Item]
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Tool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[NamedChoice | AllowedChoice, only(_CHOICES, "this server does not support a tool choice of type")]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    max_output_tokens: Whole | None = Field(default=None, ge=1)
    stream: bool | None = None
    include: list[str] | None = Field(default=None, max_length=32)
    top_logprobs: Whole | None = Field(default=None, ge=0, le=20)
    store: bool | None = None
    metadata: dict[str, str] | None = None
    include_reasoning: bool | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, max_length=32)

    @property
    def logprobs(self) -> bool:
        """Whether the answer's text is shown with the logprobs of its tokens."""
        return _LOGPROBS in (self.include or ())

    def warnings(self) -> list[str]:
        """Return what of the request has no effect."""
        tools = left_out(self.tools or ())
        items = (
            [] if isinstance(self.input, str) else [each.type for each in self.input if isinstance(each, HostedItem)]
        )
        said = {"tools that this server does not run": tools, "items of hosted tools": items}
        return [f"left out {what}: {', '.join(dict.fromkeys(kinds))}" for what, kinds in said.items() if kinds]

    def references(self) -> list[str]:
        """Return the ids of the recorded items that the input names."""
        return (
            [] if isinstance(self.input, str) else [each.id for each in self.input if isinstance(each, ItemReference)]
        )

    def chat(self, before: list[dict[str, Any]], recorded: Mapping[str, Item] = MappingProxyType({})) -> ChatRequest:
        """Return the equivalent chat request.

        Args:
            before: messages of the previous response, including its answer.
            recorded: the items that the input only names, by id.

        Raises:
            BadRequest: the request uses an unsupported feature.
        """
        said = self.model_extra or {}
        head = [{"role": "system", "content": self.instructions, "id": INSTRUCTIONS}] if self.instructions else []
        kept = before[1:] if before and before[0].get("id") == INSTRUCTIONS else before
        if isinstance(self.input, str):
            new = [{"role": "user", "content": self.input}]
        else:
            new = _messages([recorded[each.id] if isinstance(each, ItemReference) else each for each in self.input])
        return checked(
            ChatRequest,
            {
                **self.sampling_fields(),
                "model": self.model,
                "messages": [*head, *kept, *new],
                "stream": self.stream,
                "tools": functions(self.tools or ()) or None,
                "tool_choice": self._choice(),
                "parallel_tool_calls": self.parallel_tool_calls,
                "response_format": self._format(),
                "max_tokens": self.max_output_tokens,
                "chat_template_kwargs": self.chat_template_kwargs,
                "enable_thinking": self.enable_thinking,
                "metadata": self.metadata,
                "logprobs": self.logprobs,
                "top_logprobs": self.top_logprobs if self.logprobs else None,
                **{name: said[name] for name in CALLER_FIELDS if name in said},
            },
        )

    def returned(self) -> tuple[str, ...]:
        """Return the ids of earlier responses and output items that the request contains, the newest first."""
        items = [] if isinstance(self.input, str) else self.input
        ids = [item.id for item in reversed(items) if not isinstance(item, FunctionCallOutput | HostedItem)]
        return tuple(each for each in (*ids, self.previous_response_id) if isinstance(each, str))

    def _choice(self) -> Any:
        """Return chat's tool choice."""
        choice, tools = self.tool_choice, self.tools or ()
        if isinstance(choice, NamedChoice):
            return {"type": "function", "function": {"name": resolve(choice.name, tools)}}
        if isinstance(choice, AllowedChoice):
            names = [resolve(str(tool["name"]), tools) for tool in choice.tools if "name" in tool]
            allowed = [{"type": "function", "function": {"name": name}} for name in names]
            return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": allowed}}
        return choice

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
        elif isinstance(item, MessageItem | FunctionCall | CustomCall):
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
                        "function": {"name": flat(item.name, item.namespace), "arguments": item.arguments},
                    }
                )
    return messages


def _text(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
