"""Anthropic's tools: the caller's own, its typed ones that the client runs, and hosted ones, which are left out.

Claude knows the typed tools (`bash_20250124`) without a schema; any other model gets their names and schemas as
functions. The client runs their calls as it runs Claude's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Tag
from pydantic_core import PydanticCustomError

HOSTED = ("web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "mcp_toolset", "advisor_")
"""Beginnings of types of tools that Anthropic's servers run."""
CLIENT = ("bash_", "text_editor_", "memory_")
"""Beginnings of types of tools that the client runs."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class OwnTool(_Part):
    """A tool of the caller's own."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]

    def function(self) -> dict[str, Any]:
        """Return the function that the model sees."""
        return {"name": self.name, "description": self.description, "parameters": self.input_schema}


class ClientTool(_Part):
    """A typed tool, which the client runs."""

    type: str
    name: str

    def function(self) -> dict[str, Any]:
        """Return the function that the model sees."""
        description, required, properties = next(
            known for beginning, known in _CLIENT_TOOLS.items() if self.type.startswith(beginning)
        )
        schema = {"type": "object", "properties": properties, "required": required}
        return {"name": self.name, "description": description, "parameters": schema}


class HostedTool(_Part):
    """A tool that Anthropic's servers would run."""

    type: str


def _kind(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    if isinstance(kind, str) and kind.startswith(CLIENT):
        return "client"
    return "hosted" if isinstance(kind, str) and kind.startswith(HOSTED) else "own"


def _known(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if isinstance(kind, str) and kind != "custom" and not kind.startswith((*CLIENT, *HOSTED)):
        raise PydanticCustomError(
            "unsupported", "this server does not support tools of type {kind}", {"kind": repr(kind)[:100]}
        )
    return tool


Tool = Annotated[
    Annotated[OwnTool, Tag("own")] | Annotated[ClientTool, Tag("client")] | Annotated[HostedTool, Tag("hosted")],
    Discriminator(_kind),
    BeforeValidator(_known),
]


def functions(tools: Sequence[OwnTool | ClientTool | HostedTool]) -> list[dict[str, Any]]:
    """Return the tools as functions, without the hosted ones."""
    return [{"type": "function", "function": tool.function()} for tool in tools if not isinstance(tool, HostedTool)]


def left_out(tools: Sequence[OwnTool | ClientTool | HostedTool]) -> list[str]:
    """Return the types of the tools that are left out."""
    return [tool.type for tool in tools if isinstance(tool, HostedTool)]


def _text(said: str) -> dict[str, Any]:
    return {"type": "string", "description": said}


_LINES = {
    "type": "array",
    "items": {"type": "integer"},
    "description": "First and last line to view, from 1; -1 is the end of the file.",
}
_EDITS = {
    "path": _text("Absolute path."),
    "file_text": _text("For create: the file's content."),
    "old_str": _text("For str_replace: the text to replace, which must occur exactly once."),
    "new_str": _text("For str_replace: the new text."),
    "insert_line": {
        "type": "integer",
        "description": "For insert: the line before the new text, from 0.",
    },
    "insert_text": _text("For insert: the text to insert."),
    "view_range": _LINES,
}
_CLIENT_TOOLS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "bash_": (
        "Run a command in a persistent bash session.",
        [],
        {
            "command": _text("The command to run. Required unless the session is restarted."),
            "restart": {"type": "boolean", "description": "True restarts the session instead."},
        },
    ),
    "text_editor_": (
        "View, create and edit text files.",
        ["command", "path"],
        {"command": {"type": "string", "enum": ["view", "create", "str_replace", "insert"]}, **_EDITS},
    ),
    "memory_": (
        "Keep notes in files under /memories.",
        ["command"],
        {
            "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert", "delete", "rename"]},
            **_EDITS,
            "old_path": _text("For rename: the present path."),
            "new_path": _text("For rename: the new path."),
        },
    ),
}
"""Description, required arguments and arguments by the beginning of the type (Anthropic's reference of each tool)."""
