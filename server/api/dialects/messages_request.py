"""Anthropic's request for a message: what it may say, and the chat request that it means."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.dialects.chat_request import ChatRequest
from server.api.dialects.common import Said, TextOr, checked, only
from server.errors import BadRequest

BILLING = "x-anthropic-billing-header:"
"""How a block of system text begins that Claude Code sends for Anthropic's accounts; it is another one in each request,
so that no conversation would ever be found again, and says nothing to the model."""
_BETWEEN = "\n\n"


class TextBlock(Said):
    """A block of text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Said):
    """The model's own reasoning, sent back."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(Said):
    """Reasoning that nobody can read here."""

    type: Literal["redacted_thinking"]


class ToolUseBlock(Said):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


_TEXT_ONLY = "this model reads text only, not a block of type"
_Texts = TextOr[Annotated[TextBlock, only(("text",), _TEXT_ONLY)]]


class ToolResultBlock(Said):
    """What a call gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: _Texts = ""
    is_error: bool = False


_Block = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock,
    Field(discriminator="type"),
    only(("text", "thinking", "redacted_thinking", "tool_use", "tool_result"), _TEXT_ONLY),
]


class MessagesInput(Said):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: TextOr[_Block]

    def as_chat(self) -> list[dict[str, Any]]:
        """Return it as chat's messages: a result of a tool is a message of its own there."""
        if isinstance(self.content, str):
            return [{"role": self.role, "content": self.content}]
        return [_answer(self.content)] if self.role == "assistant" else _asked(self.role, self.content)


class MessageTool(Said):
    """A tool that the caller runs."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]


Tool = Annotated[MessageTool, only(("custom",), "this server runs no tools of its own, such as")]


class ToolChoice(Said):
    """Whether tools are to be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    def as_chat(self) -> str | dict[str, Any]:
        """Return it in chat's words."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name or ""}}
        return "required" if self.type == "any" else self.type


class ThinkingConfig(Said):
    """Whether reasoning is shown; how much of it there is, the model decides."""

    type: Literal["enabled", "disabled", "adaptive"]


class OutputFormat(Said):
    """The form of an answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Said):
    """How to answer."""

    format: OutputFormat | None = None


class CountRequest(Said):
    """What makes a prompt. Fields that are not named here change nothing."""

    model: str
    messages: list[MessagesInput] = Field(min_length=1)
    system: _Texts = ""
    tools: list[Tool] | None = Field(default=None, max_length=256)
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    mcp_servers: list[Any] | None = None

    @property
    def thinks(self) -> bool:
        """The caller wants to see the reasoning."""
        return self.thinking is not None and self.thinking.type != "disabled"

    def chat(self, **sampling: Any) -> ChatRequest:
        """Return the chat request that this one means.

        Raises:
            BadRequest: it asks for what this server does not have.
        """
        if self.messages[-1].role == "assistant":
            raise BadRequest(
                "this server cannot continue an answer that the caller has begun (prefill)",
                param="messages",
                code="unsupported_parameter",
            )
        if self.mcp_servers:
            raise BadRequest(
                "this server does not support 'mcp_servers'", param="mcp_servers", code="unsupported_parameter"
            )
        messages = [said for message in self.messages for said in message.as_chat()]
        if system := self._system():
            messages.insert(0, {"role": "system", "content": system})
        form = self.output_config.format if self.output_config else None
        choice = self.tool_choice
        return checked(
            ChatRequest,
            {
                **sampling,
                "model": self.model,
                "messages": messages,
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": tool.name,
                            "description": tool.description,
                            "parameters": tool.input_schema,
                        },
                    }
                    for tool in self.tools or []
                ]
                or None,
                "tool_choice": choice and choice.as_chat(),
                "parallel_tool_calls": False if choice and choice.disable_parallel_tool_use else None,
                "response_format": form
                and {"type": "json_schema", "json_schema": {"name": "answer", "schema": form.schema_}},
            },
        )

    def _system(self) -> str:
        if isinstance(self.system, str):
            return self.system
        return _BETWEEN.join(block.text for block in self.system if not block.text.startswith(BILLING))


class MessagesRequest(CountRequest):
    """The whole request."""

    max_tokens: int = Field(ge=1)
    stream: bool = False
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, max_length=64)
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)

    def chat(self, **more: Any) -> ChatRequest:
        """Return the chat request that this one means."""
        return super().chat(
            max_tokens=self.max_tokens,
            stream=self.stream,
            stop=self.stop_sequences,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            **more,
        )


def _answer(blocks: list[_Block]) -> dict[str, Any]:
    """Return the model's own message, as the record has it."""
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
                "function": {"name": call.name, "arguments": json.dumps(call.input, ensure_ascii=False)},
            }
            for call in calls
        ]
    return message


def _asked(role: str, blocks: list[_Block]) -> list[dict[str, Any]]:
    """Return the messages of a turn of the caller's: texts side by side are one."""
    messages: list[dict[str, Any]] = []
    for block in blocks:
        if isinstance(block, ToolResultBlock):
            said = (
                block.content if isinstance(block.content, str) else _BETWEEN.join(text.text for text in block.content)
            )
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": block.tool_use_id,
                    "content": f"Error: {said}" if block.is_error else said,
                }
            )
        elif not isinstance(block, TextBlock):
            raise BadRequest(f"only the assistant may send a block of type {block.type!r}", param="messages")
        elif messages and messages[-1]["role"] == role:
            messages[-1]["content"] += _BETWEEN + block.text
        else:
            messages.append({"role": role, "content": block.text})
    return messages or [{"role": role, "content": ""}]
