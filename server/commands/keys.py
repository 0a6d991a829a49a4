"""`python -m server keys create | list | revoke`: API keys in the database, whether or not a server is running."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import ValidationError
from sqlalchemy.orm import Session

from server.commands.database import open_database
from server.errors import NotFound
from server.recording.keys import create_key, list_keys, revoke_key
from server.settings import Settings
from upturn.wire import KeyCreate, KeyView, Scope


def run(
    settings: Settings,
    *,
    create: bool = False,
    name: str = "",
    scopes: Sequence[Scope] = (),
    reward_sources: Sequence[str] | None = None,
    requests_per_minute: int | None = None,
    max_concurrent: int | None = None,
    revoke: str | None = None,
    as_json: bool = False,
) -> int:
    """Create a key, revoke the key with the id `revoke`, or list all keys; return the exit code."""
    request = None
    if create:
        try:
            request = KeyCreate(
                name=name,
                scopes=list(scopes),
                reward_sources=list(reward_sources) if reward_sources else None,
                requests_per_minute=requests_per_minute,
                max_concurrent=max_concurrent,
            )
        except ValidationError as error:
            first = error.errors()[0]
            print(": ".join([*map(str, first["loc"][:1]), first["msg"]]), file=sys.stderr)
            return 2
    database = open_database(settings)
    try:
        with Session(database.writer) as session, session.begin():
            lines = _apply(session, request, revoke, as_json)
    except NotFound as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        database.close()
    for line in lines:
        print(line)
    return 0


def _apply(session: Session, request: KeyCreate | None, revoked: str | None, as_json: bool) -> list[str]:
    """Create, revoke or list; return the lines to print after the commit."""
    if request is not None:
        made = create_key(session, request)
        if as_json:
            return [made.model_dump_json(indent=2)]
        return [made.key, f"{made.id}: {made.name} ({', '.join(made.scopes)}); the key is shown only this once"]
    if revoked is not None:
        revoke_key(session, revoked)
        return [f"{revoked} is revoked; a running server refuses it within a second or so"]
    found = list_keys(session)
    if as_json:
        return [json.dumps([key.model_dump(mode="json") for key in found], indent=2, ensure_ascii=False)]
    return [_line(key) for key in found] or ["no keys"]


def _line(key: KeyView) -> str:
    limits = [f"{key.requests_per_minute}/min"] if key.requests_per_minute else []
    limits += [f"{key.max_concurrent} at once"] if key.max_concurrent else []
    limits += [f"rewards as {', '.join(key.reward_sources)}"] if key.reward_sources else []
    state = f"revoked {_date(key.revoked_at)}" if key.revoked_at else f"since {_date(key.created_at)}"
    return "  ".join([key.id, ",".join(key.scopes), state, ", ".join(limits) or "no limits", key.name])


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
