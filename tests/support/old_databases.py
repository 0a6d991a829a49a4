"""Databases of earlier revisions with rows in every table, made by reflection: no code of the revision is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

import migrations
from server.store.database import Database
from upturn.wire import IntervalTrigger, PlayRequest, RunConfig

ROWS = 2
Rows = dict[str, list[dict[str, Any]]]


def old_database(url: str, revision: str, model: Path) -> Rows:
    """Make a database at a revision, with `ROWS` rows in each table; return them by table."""
    database = Database(url)
    migrations.upgrade(database.writer, revision)
    metadata = _reflected(database.writer)
    rows: Rows = {}
    with database.writer.begin() as connection:
        for table in metadata.sorted_tables:
            rows[table.name] = [_row(table, number, rows, model) for number in range(ROWS)]
            for row in rows[table.name]:
                connection.execute(sa.insert(table), [row])
    database.close()
    return rows


def all_rows(engine: sa.Engine) -> Rows:
    """Return all rows of a database by table, ordered by primary key."""
    with engine.connect() as connection:
        return {
            table.name: [
                dict(row)
                for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
            ]
            for table in _reflected(engine).sorted_tables
        }


def _index(index: Any) -> dict[str, Any]:
    """Return a reflected index with its options as text: two equal conditions are two objects."""
    return {**index, "dialect_options": {name: str(value) for name, value in index.get("dialect_options", {}).items()}}


def schema(engine: sa.Engine) -> dict[str, Any]:
    """Return columns, keys and indexes of every table."""
    inspector = sa.inspect(engine)
    return {
        name: (
            [{**column, "type": str(column["type"])} for column in inspector.get_columns(name)],
            inspector.get_pk_constraint(name),
            sorted(inspector.get_foreign_keys(name), key=str),
            sorted((_index(index) for index in inspector.get_indexes(name)), key=str),
            sorted(inspector.get_unique_constraints(name), key=str),
            sorted(inspector.get_check_constraints(name), key=str),
        )
        for name in sorted(inspector.get_table_names())
    }


def _reflected(engine: sa.Engine) -> sa.MetaData:
    metadata = sa.MetaData()
    metadata.reflect(engine, only=lambda name, _: name != "alembic_version")
    return metadata


def _row(table: sa.Table, number: int, rows: Rows, model: Path) -> dict[str, Any]:
    return {column.name: _value(table, column, number, rows, model) for column in table.columns}


def _value(table: sa.Table, column: sa.Column[Any], number: int, rows: Rows, model: Path) -> Any:
    plausible: dict[tuple[str, str], Any] = {
        ("api_key", "revoked_at"): None,
        ("api_key", "scopes"): ["agent"],
        ("api_key", "reward_sources"): ["user"],
        ("episode", "status"): ("closed", "error")[number],
        ("episode", "environment"): None,
        ("feedback", "thumb"): ("up", "down")[number],
        ("play", "state"): "done",
        ("play", "request"): PlayRequest(environment="textcraft", tasks=["x"], horizon=2).model_dump(mode="json"),
        ("policy_version", "version"): number,
        ("policy_version", "kind"): ("base", "full")[number],
        ("policy_version", "state"): ("ready", "retired")[number],
        ("policy_version", "path"): (str(model), "/gone")[number],
        ("promotion", "action"): "promote",
        ("promotion", "to_version"): 0,
        ("promotion", "from_version"): None,
        ("promotion", "evidence"): None,
        ("reward_source", "weight"): 1.0,
        ("reward_source", "cap"): None,
        ("run", "state"): "done",
        ("run", "slot"): None,
        ("run", "gate"): None,
        ("run", "config"): RunConfig(steps=2).model_dump(mode="json"),
        ("run_trigger", "source"): "api",
        ("run_trigger", "rule"): IntervalTrigger(kind="interval", every_s=1e6).model_dump(mode="json"),
        ("run_trigger", "due_since"): None,
        ("run_trigger", "next_at"): 4e9,
        ("step", "index"): number,
        ("turn", "index"): number,
        ("turn", "messages"): [{"role": "user", "content": "Grüße\n"}],
        ("turn", "answer"): {"role": "assistant", "content": f"answer {number}"},
        ("turn", "finish_reason"): "stop",
    }
    key = (table.name, column.name)
    if key in plausible:
        return plausible[key]
    for foreign in column.foreign_keys:
        if foreign.column.table is table:  # The second row of a table refers to the first.
            return None if number == 0 else (0 if column.name == "parent" else 1)
        return rows[foreign.column.table.name][number][foreign.column.name]
    kind = column.type
    if isinstance(kind, sa.JSON):
        return {"number": number, "nested": [1.5, None, "ä"]}
    if isinstance(kind, sa.Boolean):
        return number == 0
    if isinstance(kind, sa.Integer):
        return number + 1
    if isinstance(kind, sa.Float):
        return 1.7e9 + number
    if isinstance(kind, sa.LargeBinary):
        return bytes([number + 1, 0, 0, 0])
    return f"{column.name}-{number}"[: getattr(kind, "length", None) or 100]
