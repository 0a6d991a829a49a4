"""Run configs as TOML: what a page shows, a person edits, and a settings file takes."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from server.errors import BadRequest
from upturn.wire import RunConfig

TABLE = "schedule.run"
"""The table of the settings that holds the configured run."""
WIDEST = 76
"""Characters of a line, beyond which an inline table becomes a table of its own."""
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def write_run(config: RunConfig) -> str:
    """Return a config as the table `schedule.run` of a settings file, without its defaults."""
    fields = config.model_dump(mode="json", exclude_defaults=True)
    if "schedule" in fields:
        fields["schedule"] = {"kind": config.schedule.kind, **fields["schedule"]}
    return write_table(TABLE, {"steps": fields.pop("steps"), **fields})


def write_table(name: str, fields: Mapping[str, Any]) -> str:
    """Return a table; values of None are left out."""
    lines, tables = [f"[{name}]"], []
    for key, value in fields.items():
        if value is None:
            continue
        line = f"{_key(key)} = {_value(value)}"
        if isinstance(value, Mapping) and value and len(line) > WIDEST:
            tables.append(write_table(f"{name}.{_key(key)}", value))
        else:
            lines.append(line)
    return "\n".join(lines) + "\n" + "".join(f"\n{table}" for table in tables)


def read_run(text: str) -> RunConfig:
    """Return the config in a text: the table `schedule.run` of a settings file, or its fields alone.

    Raises:
        BadRequest: it is not TOML, or no config; the message says where.
    """
    try:
        fields: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"this is not TOML: {error}", param="toml") from None
    except RecursionError:
        raise BadRequest("this TOML is nested too deeply", param="toml") from None
    for part in TABLE.split("."):
        if isinstance(fields, dict) and part in fields and set(fields) <= {part, "triggers", "windows"}:
            fields = fields[part]
    try:
        return RunConfig.model_validate_json(json.dumps(fields, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(place) for place in first["loc"])
        raise BadRequest(f"{where}: {first['msg']}" if where else first["msg"], param="toml") from None


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None)
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one) for one in value)}]"
    return repr(value)
