"""A route that reads large JSON bodies in a thread: FastAPI parses and validates in the event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from server import heavy
from server.api.access.sites import JSON, media_type


class JsonRoute(APIRoute):
    """Reads a large body into the route's model before FastAPI does. FastAPI handles every other request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the function that answers a request."""
        general = super().get_route_handler()
        model = self.body_field.field_info.annotation if self.body_field is not None else None
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or self._embed_body_fields:
            return general

        async def answer(request: Request) -> Response:
            is_json = JSON.fullmatch(media_type(request.headers))
            if is_json and len(body := await request.body()) > heavy.LIGHT:
                read = await heavy.run(len(body), lambda: _read(model, body))
                if read is not None:
                    request._json = read  # Starlette's cache of the parsed body; a valid model stays unchanged.
            return await general(request)

        return answer


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
