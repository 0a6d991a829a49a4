"""Tools of the Responses API, and the functions that the model sees.

A namespace's tools become `<namespace>__<name>`, as vLLM writes them; calls of them get their own names back.
Tools that OpenAI's servers would run are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from server.api.dialects.tools.custom import NAME, Custom
from server.errors import BadRequest

HOSTED = (
    "web_search", "file_search", "code_interpreter", "image_generation", "mcp", "computer", "tool_search",
    "programmatic_tool_calling", "local_shell", "shell", "apply_patch",
)  # fmt: skip
"""Beginnings of types of tools that have no schema: OpenAI's servers run them, or know how a client does."""
SEPARATOR = "__"
_OWN = ("function", "custom", "namespace")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class FunctionTool(_Part):
    """A tool that the caller runs."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def function(self) -> dict[str, Any]:
        """Return the function that the model sees."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}


class CustomTool(Custom):
    """A tool that takes text."""

    type: Literal["custom"]


class NamespaceTool(_Part):
    """Tools under a common name."""

    type: Literal["namespace"]
    name: str = Field(pattern=NAME)
    description: str | None = None
    tools: list[Annotated[FunctionTool | CustomTool, Field(discriminator="type")]]


class HostedTool(_Part):
    """A tool that is left out."""

    type: str


def _kind(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    if isinstance(kind, str) and kind.startswith(HOSTED):
        return "hosted"
    return kind if isinstance(kind, str) else "function"


def _known(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if isinstance(kind, str) and kind not in _OWN and not kind.startswith(HOSTED):
        raise PydanticCustomError(
            "unsupported", "this server does not support tools of type {kind}", {"kind": repr(kind)[:100]}
        )
    return tool


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[CustomTool, Tag("custom")]
    | Annotated[NamespaceTool, Tag("namespace")]
    | Annotated[HostedTool, Tag("hosted")],
    Discriminator(_kind),
    BeforeValidator(_known),
]


@dataclass(frozen=True, slots=True)
class Original:
    """How the caller named a tool."""

    name: str
    namespace: str | None
    custom: bool


def flat(name: str, namespace: str | None) -> str:
    """Return the name under which the model sees a tool."""
    return f"{namespace}{SEPARATOR}{name}" if namespace else name


def functions(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Return the tools as functions."""
    shown = []
    for original, tool in _each(tools):
        function = {**tool.function(), "name": flat(original.name, original.namespace)}
        shown.append({"type": "function", "function": function})
    return shown


def originals(tools: Sequence[Tool]) -> Mapping[str, Original]:
    """Return the callers' names by the model's, for tools where a call has another form than a plain function's."""
    return {
        flat(original.name, original.namespace): original
        for original, _ in _each(tools)
        if original.namespace or original.custom
    }


def left_out(tools: Sequence[Tool]) -> list[str]:
    """Return the types of the tools that are left out."""
    return [tool.type for tool in tools if isinstance(tool, HostedTool)]


def resolve(name: str, tools: Sequence[Tool]) -> str:
    """Return the model's name of a tool that a choice names, with or without its namespace.

    Raises:
        BadRequest: several namespaces have a tool of this name.
    """
    known = [original for original, _ in _each(tools)]
    if any(flat(each.name, each.namespace) == name for each in known):
        return name
    found = [flat(each.name, each.namespace) for each in known if each.name == name]
    if len(found) > 1:
        raise BadRequest(f"tool_choice {name!r} could be {' or '.join(found)}", param="tool_choice")
    return found[0] if found else name


def _each(tools: Sequence[Tool]) -> Iterator[tuple[Original, FunctionTool | CustomTool]]:
    for tool in tools:
        if isinstance(tool, NamespaceTool):
            for inner in tool.tools:
                yield Original(inner.name, tool.name, isinstance(inner, CustomTool)), inner
        elif not isinstance(tool, HostedTool):
            yield Original(tool.name, None, isinstance(tool, CustomTool)), tool
