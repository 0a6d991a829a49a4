"""OpenAI's custom tools, whose input is plain text: the model sees a function with one text, `input`."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9_.-]{1,128}$"
_PARAMETERS = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


class Grammar(BaseModel):
    """A grammar of the input. It is shown to the model and not enforced."""

    model_config = ConfigDict(extra="ignore", strict=True)

    syntax: str = ""
    definition: str = ""


class InputFormat(BaseModel):
    """Form of the input."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: str
    grammar: Grammar | None = None
    syntax: str = ""
    definition: str = ""


class Custom(BaseModel):
    """A tool that takes text."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = Field(pattern=NAME)
    description: str | None = None
    format: InputFormat | None = None

    def function(self) -> dict[str, Any]:
        """Return the function that the model sees."""
        described = [self.description] if self.description else []
        form = self.format
        grammar = (form.grammar or Grammar(syntax=form.syntax, definition=form.definition)) if form else None
        if grammar is not None and grammar.definition:
            described.append(f"The input follows this {grammar.syntax} grammar:\n{grammar.definition}".strip())
        shown = {"description": "\n\n".join(described)} if described else {}
        return {"name": self.name, **shown, "parameters": _PARAMETERS}


def arguments_of(text: str) -> str:
    """Return a custom call's input as the arguments of the function."""
    return json.dumps({"input": text}, ensure_ascii=False)


def input_of(arguments: str) -> str:
    """Return the input in the arguments that the model wrote, or the arguments themselves if there is none."""
    try:
        written = json.loads(arguments)
    except ValueError:
        return arguments
    said = written.get("input") if isinstance(written, dict) else None
    return said if isinstance(said, str) else arguments
