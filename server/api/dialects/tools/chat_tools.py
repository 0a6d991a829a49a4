"""Chat's tools and tool choices, and the functions that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.api.dialects.tools.custom import NAME, Custom
from server.errors import BadRequest


class Options(BaseModel):
    """A part of the request whose unknown fields are ignored."""

    model_config = ConfigDict(extra="allow", strict=True)


class Function(Options):
    """A tool's signature."""

    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments."""


class FunctionTool(Options):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class CustomTool(Options):
    """A tool that takes text."""

    type: Literal["custom"]
    custom: Custom


Tool = Annotated[FunctionTool | CustomTool, Field(discriminator="type")]


class Named(Options):
    """A tool's name."""

    name: str


class NamedTool(Options):
    """A forced call of a function."""

    type: Literal["function"]
    function: Named


class NamedCustomTool(Options):
    """A forced call of a custom tool."""

    type: Literal["custom"]
    custom: Named


class Allowed(Options):
    """The tools that may be called, and whether one must be."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]] = Field(min_length=1, fail_fast=True)


class AllowedTools(Options):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowed


Choice = (
    Literal["none", "auto", "required"]
    | Annotated[NamedTool | NamedCustomTool | AllowedTools, Field(discriminator="type")]
)
FunctionCall = Literal["none", "auto"] | Named
"""OpenAI's older tool choice."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a request's tools come to."""

    functions: list[dict[str, Any]]
    """The tools as the model sees them."""
    call: str | None
    """Name of the tool that the answer must call; empty for any tool, None to let the model decide."""
    reads_calls: bool
    """False shows calls as plain text."""


def read_tools(
    tools: Sequence[Tool],
    choice: Choice | None,
    functions: Sequence[Function] = (),
    function_call: FunctionCall | None = None,
) -> Tools:
    """Return a request's tools as functions, and which of them must be called.

    Args:
        tools: the tools.
        choice: the tool choice.
        functions: OpenAI's older form of tools; the request has one form only.
        function_call: the tool choice of the older form.

    Raises:
        BadRequest: names are used twice, or the choice names a tool that does not exist.
    """
    if functions and tools:
        raise BadRequest("functions is the older form of tools: send one of them", param="functions")
    if function_call is not None and not functions:
        raise BadRequest("function_call needs functions; with tools, use tool_choice", param="function_call")
    shown = [_shown(tool) for tool in tools] or [_wrapped(_dumped(function)) for function in functions]
    names = [tool["function"]["name"] for tool in shown]
    if len(set(names)) != len(names):
        raise BadRequest("two tools have the same name", param="tools")
    allowed, call = chosen(function_call if functions else choice)
    if call is not None and not shown:
        raise BadRequest("tool_choice needs tools", param="tool_choice")
    for name in [call] if call else allowed or []:
        if name not in names:
            raise BadRequest(f"tool_choice names {name!r}, which is not one of the tools", param="tool_choice")
    # Only allowed tools are shown: the model cannot call any other.
    kept = [tool for name, tool in zip(names, shown, strict=True) if allowed is None or name in allowed]
    return Tools(kept, call, "none" not in (choice, function_call))


def custom_names(tools: Sequence[Tool]) -> frozenset[str]:
    """Return the names of the custom tools."""
    return frozenset(tool.custom.name for tool in tools if isinstance(tool, CustomTool))


def _shown(tool: Tool) -> dict[str, Any]:
    """Return a tool as the model sees it."""
    return _wrapped(tool.custom.function()) if isinstance(tool, CustomTool) else _dumped(tool)


def _wrapped(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


def _dumped(part: Options) -> dict[str, Any]:
    return part.model_dump(mode="json", exclude_none=True)


def chosen(choice: Choice | FunctionCall | None) -> tuple[list[str] | None, str | None]:
    """Return the names of the allowed tools (None: all), and the forced call."""
    if isinstance(choice, AllowedTools):
        names = [_name(tool) for tool in choice.allowed_tools.tools]
        return names, "" if choice.allowed_tools.mode == "required" else None
    if isinstance(choice, NamedTool):
        return None, choice.function.name
    if isinstance(choice, NamedCustomTool):
        return None, choice.custom.name
    if isinstance(choice, Named):
        return None, choice.name
    return None, "" if choice == "required" else None


def _name(tool: Mapping[str, Any]) -> str:
    """Return the name of an allowed tool, in chat's form or in that of the Responses API."""
    inner = tool.get(str(tool.get("type")))
    name = inner.get("name") if isinstance(inner, dict) else tool.get("name")
    if not isinstance(name, str):
        raise BadRequest("tool_choice: an allowed tool has no name", param="tool_choice")
    return name
