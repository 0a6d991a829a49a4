"""Corrects FastAPI's OpenAPI schema: the real error bodies, and path parameters that only a dependency reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from server.api.access.errors import ErrorForm


def document(app: FastAPI, form_of: Callable[[str], ErrorForm]) -> None:
    """Replace FastAPI's 422 by the error form of each path, and add the missing path parameters."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        schema = generate()
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        for path, operations in schema["paths"].items():
            error = form_of(path).schema
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"].setdefault(
                    "default", {"description": "An error", "content": {"application/json": {"schema": error}}}
                )
                parameters = operation.setdefault("parameters", [])
                parameters += [
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                    for name in re.findall(r"{(\w+)", path)
                    if name not in {parameter["name"] for parameter in parameters}
                ]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
