"""Tools to declare another dialect's request and to translate it into a chat request."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError
from pydantic_core import PydanticCustomError

from server.api.dialects.chat_request import ChatRequest
from server.errors import BadRequest

Request = TypeVar("Request", bound=ChatRequest)
Item = TypeVar("Item")
TextOr = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Item], Field(fail_fast=True), Tag("list")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
]
"""Text or a list of parts. Errors name the part that is wrong."""


class Lenient(BaseModel):
    """A request or a part of one that ignores unknown fields."""

    model_config = ConfigDict(extra="ignore", strict=True)


def checked(kind: type[Request], fields: dict[str, Any]) -> Request:
    """Translate another dialect's request into a chat request; None stands for an absent field.

    Raises:
        BadRequest: the translated request is not a valid chat request.
    """
    try:
        return kind.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{where}: {first['msg']}", param=where) from error


def only(known: tuple[str, ...], why: str) -> BeforeValidator:
    """Return a validator that refuses any other `type` with a plain message: `why`, then the type."""

    def check(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind is not None and kind not in known:
            raise PydanticCustomError("unsupported", "{why}: {kind}", {"why": why, "kind": repr(kind)[:100]})
        return value

    return BeforeValidator(check)
