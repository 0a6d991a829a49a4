"""The base of all tables: column types for Python types, and names of constraints."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, Double, Integer, LargeBinary, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase

Id = String(64)


class Base(DeclarativeBase):
    """Base of all tables. Constraints have names, so that migrations can change them on SQLite."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text,
        float: Double,
        int: Integer,
        bytes: LargeBinary,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }
