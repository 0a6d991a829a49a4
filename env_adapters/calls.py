"""Tool calls as actions: reads a call's arguments and turns it into the text that `Environment.step` understands."""

from __future__ import annotations

import json
from typing import Any

from env_adapters.protocol import EnvironmentSpec


def text_of_call(spec: EnvironmentSpec, name: str, arguments: str | dict[str, Any]) -> str:
    """Return a tool call as text that `step` understands.

    Args:
        spec: the environment whose tool is called.
        name: the tool's name.
        arguments: an object, or its JSON.

    Raises:
        ValueError: the tool does not exist, or its arguments do not fit.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise ValueError(f"the arguments of {name} are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {name} are not an object")
    return spec.text_of(name, arguments)
