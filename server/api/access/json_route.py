"""A route that reads large JSON bodies in a thread: FastAPI parses and validates in the event loop.

It also refuses text that is not Unicode in what is stored as JSON: stored, no answer could show it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from server import heavy
from server.api.access.sites import JSON, media_type
from upturn.wire import Message

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that is a half of a surrogate pair."""


class JsonRoute(APIRoute):
    """Reads a large body into the route's model before FastAPI does. FastAPI handles every other request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that answers a request."""
        general = super().get_route_handler()
        model = self.body_field.field_info.annotation if self.body_field is not None else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or self._embed_body_fields:
            return general

        is_message = issubclass(model, Message)

        async def answer(request: Request) -> Response:
            if not JSON.fullmatch(media_type(request.headers)):
                return await general(request)
            body = await request.body()
            if is_message and _HALF.search(body):
                await heavy.run(len(body), lambda: _check_unicode(body))
            if len(body) > heavy.LIGHT:
                read = await heavy.run(len(body), lambda: _read(model, body))
                if read is not None:
                    request._json = read  # Starlette's cache of the parsed body; a valid model stays unchanged.
            return await general(request)

        return answer


def _check_unicode(body: bytes) -> None:
    """Check that each half of a surrogate pair in a body has its other half.

    Raises:
        UnicodeEncodeError: one has not.
    """
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False)
    except (ValueError, RecursionError):
        return  # It is not JSON, which FastAPI reports.
    text.encode()


def _read(model: type[BaseModel], body: bytes) -> BaseModel | None:
    """Return a body as the model; None if it is not JSON, which FastAPI reports.

    Raises:
        RequestValidationError: the body does not fit the model.
    """
    try:
        value = from_json(body)
    except ValueError:
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RequestValidationError([{**first, "loc": ("body", *first["loc"])}]) from None
