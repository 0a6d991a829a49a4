"""Anthropic's request for a message, and its translation into a chat request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from server.api.dialects.chat_request import MOST_MESSAGES, MOST_TOOLS, ChatRequest
from server.api.dialects.fields.sampling import MOST_STOPS, Whole
from server.api.dialects.tools.anthropic_tools import Tool, functions, left_out
from server.api.dialects.translation import Lenient, TextOr, checked, only
from server.errors import BadRequest
from server.rendering.json_text import write_json

BILLING = "x-anthropic-billing-header:"
"""Prefix of a system text block that Claude Code sends for Anthropic's billing. It differs in every request, so that no
conversation would be found again, and means nothing to the model."""
_BETWEEN = "\n\n"


class TextBlock(Lenient):
    """A block of text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Lenient):
    """The model's reasoning, sent back."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(Lenient):
    """Encrypted reasoning, which is dropped."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(Lenient):
    """A call by the model."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


_TEXT_ONLY = "this model accepts text only, not a block of type"
_Texts = TextOr[Annotated[TextBlock, only(("text",), _TEXT_ONLY)]]


class ToolResultBlock(Lenient):
    """The result of a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: _Texts = ""
    is_error: bool = False


_Block = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
    only(("text", "thinking", "redacted_thinking", "tool_use", "tool_result"), _TEXT_ONLY),
]


class MessagesInput(Lenient):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: TextOr[_Block]

    def as_chat(self) -> list[dict[str, Any]]:
        """Return chat messages: each tool result becomes a message of its own."""
        if isinstance(self.content, str):
            return [{"role": self.role, "content": self.content}]
        return [_answer(self.content)] if self.role == "assistant" else _asked(self.role, self.content)


class ToolChoice(Lenient):
    """Whether and which tools to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    def as_chat(self) -> str | dict[str, Any]:
        """Return chat's `tool_choice`."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name or ""}}
        return "required" if self.type == "any" else self.type


class ThinkingConfig(Lenient):
    """Whether reasoning is shown; its length is up to the model."""

    type: Literal["enabled", "disabled", "adaptive"]


class OutputFormat(Lenient):
    """Format of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Lenient):
    """Options of the answer; `effort` has no effect."""

    format: OutputFormat | None = None


class CountRequest(Lenient):
    """The fields that make the prompt. `fields/table.py` lists every field."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[MessagesInput] = Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)
    system: _Texts = ""
    tools: list[Tool] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(default=None, max_length=32)

    @property
    def thinks(self) -> bool:
        """Whether the caller wants to see the reasoning."""
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def choice(self) -> Literal["auto", "required", "named"]:
        """Whether the answer must call a tool, or one particular tool."""
        kind = self.tool_choice.type if self.tool_choice is not None else "auto"
        return "named" if kind == "tool" else "required" if kind == "any" else "auto"

    def warnings(self) -> list[str]:
        """Return what of the request has no effect."""
        hosted = left_out(self.tools or ())
        return [f"left out tools that Anthropic's servers run: {', '.join(hosted)}"] if hosted else []

    def chat(self, **sampling: Any) -> ChatRequest:
        """Return the equivalent chat request.

        Raises:
            BadRequest: the request is contradictory.
        """
        messages = [each for message in self.messages for each in message.as_chat()]
        if system := self._system():
            messages.insert(0, {"role": "system", "content": system})
        form = (self.output_config.format if self.output_config else None) or self.output_format
        choice = self.tool_choice
        return checked(
            ChatRequest,
            {
                **sampling,
                "model": self.model,
                "messages": messages,
                "tools": functions(self.tools or ()) or None,
                "tool_choice": choice and choice.as_chat(),
                "parallel_tool_calls": False if choice and choice.disable_parallel_tool_use else None,
                "continue_final_message": self.messages[-1].role == "assistant" or None,
                "chat_template_kwargs": self.chat_template_kwargs,
                "response_format": form
                and {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.schema_}},
            },
        )

    def _system(self) -> str:
        if isinstance(self.system, str):
            return self.system
        return _BETWEEN.join(block.text for block in self.system if not block.text.startswith(BILLING))


class MessagesRequest(CountRequest):
    """The request for an answer."""

    max_tokens: Whole = Field(ge=1)
    stream: bool = False
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, max_length=MOST_STOPS)
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Whole | None = Field(default=None, ge=0)
    metadata: Any = None

    def chat(self, **more: Any) -> ChatRequest:
        """Return the equivalent chat request."""
        return super().chat(
            max_tokens=self.max_tokens,
            stream=self.stream,
            stop=self.stop_sequences,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            metadata=self.metadata,
            **more,
        )


def _answer(blocks: list[_Block]) -> dict[str, Any]:
    """Return the model's message as chat has it."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(block.text for block in blocks if isinstance(block, TextBlock)),
    }
    if thoughts := "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock)):
        message["reasoning_content"] = thoughts
    if calls := [block for block in blocks if isinstance(block, ToolUseBlock)]:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _written(call.input)},
            }
            for call in calls
        ]
    return message


def _written(call_input: dict[str, Any]) -> str:
    try:
        return write_json(call_input)
    except ValueError as error:
        raise BadRequest(f"the input of a tool_use block is not JSON: {error}", param="messages") from error


def _asked(role: str, blocks: list[_Block]) -> list[dict[str, Any]]:
    """Return the caller's messages; adjacent texts become one message."""
    messages: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            text = (
                block.content if isinstance(block.content, str) else _BETWEEN.join(part.text for part in block.content)
            )
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": block.tool_use_id,
                    "content": f"Error: {text}" if block.is_error else text,
                }
            )
        elif not isinstance(block, TextBlock):
            raise BadRequest(f"only the assistant may send a block of type {block.type!r}", param="messages")
        elif messages and messages[-1]["role"] == role:
            messages[-1]["content"] += _BETWEEN + block.text
        else:
            messages.append({"role": role, "content": block.text})
    return messages or [{"role": role, "content": ""}]
