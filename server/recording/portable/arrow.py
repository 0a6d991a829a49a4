"""The Parquet schema, derived from the records so that both file formats have the same fields."""

from __future__ import annotations

from types import NoneType
from typing import Any, Literal, get_args, get_origin

from server.recording.portable.records import EpisodeRecord, Record

ARROW_TYPES = {str: "string", bool: "bool", int: "int32", float: "double"}


def arrow_schema() -> Any:
    """Return the Arrow schema of an episode record. Needs pyarrow."""
    import pyarrow as pa

    def arrow_type(kind: Any) -> Any:
        if isinstance(kind, type) and issubclass(kind, Record):
            return pa.struct(fields(kind))
        if kind in ARROW_TYPES:
            return pa.type_for_alias(ARROW_TYPES[kind])
        if get_origin(kind) is list:
            return pa.list_(arrow_type(get_args(kind)[0]))
        if get_origin(kind) is Literal:
            return pa.string()
        return arrow_type(next(inner for inner in get_args(kind) if inner is not NoneType))

    def fields(record: type[Record]) -> list[Any]:
        return [pa.field(name, arrow_type(field.annotation)) for name, field in record.model_fields.items()]

    return pa.schema(fields(EpisodeRecord))
