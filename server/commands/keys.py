"""`python -m server keys create | list | revoke`: API keys in the database, with or without a running server."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import get_args

from pydantic import ValidationError
from sqlalchemy.orm import Session

from server.commands.database import add_flags, open_database
from server.errors import NotFound
from server.recording.keys import create_key, list_keys, revoke_key
from upturn.wire import KeyCreate, KeyView, Scope


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        request = (
            KeyCreate(
                name=options.name,
                scopes=options.scope,
                requests_per_minute=options.requests_per_minute,
                max_concurrent=options.max_concurrent,
            )
            if options.action == "create"
            else None
        )
    except ValidationError as error:
        first = error.errors()[0]
        print(f"{first['loc'][0]}: {first['msg']}", file=sys.stderr)
        return 2
    database = open_database(options)
    try:
        with Session(database.writer) as session, session.begin():
            lines = _do(session, request, options)
    except NotFound as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        database.close()
    for line in lines:
        print(line)
    return 0


def _do(session: Session, request: KeyCreate | None, options: argparse.Namespace) -> list[str]:
    """Carry out the action; return the lines to print after the commit."""
    if request is not None:
        made = create_key(session, request)
        return [made.key, f"{made.id}: {made.name} ({', '.join(made.scopes)}); the key is shown only once"]
    if options.action == "revoke":
        revoke_key(session, options.id)
        return [f"{options.id} is revoked; a running server refuses it within a second or so"]
    return [_line(key) for key in list_keys(session)] or ["no keys"]


def _line(key: KeyView) -> str:
    limits = [f"{key.requests_per_minute}/min"] if key.requests_per_minute else []
    limits += [f"{key.max_concurrent} at once"] if key.max_concurrent else []
    state = f"revoked {_date(key.revoked_at)}" if key.revoked_at else f"since {_date(key.created_at)}"
    return "  ".join([key.id, ",".join(key.scopes), state, ", ".join(limits) or "no limits", key.name])


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m server keys",
        allow_abbrev=False,
        description="Create, list and revoke API keys. A running server notices within a second or so.",
    )
    actions = top.add_subparsers(dest="action", required=True, metavar="create | list | revoke")
    create = actions.add_parser("create", allow_abbrev=False, help="create a key and show it once")
    create.add_argument("--name", required=True, help="owner of the key, for display only")
    create.add_argument(
        "--scope",
        action="append",
        required=True,
        choices=get_args(Scope),
        help="what the key may do; can be repeated",
    )
    create.add_argument("--requests-per-minute", type=int, metavar="N", help="default: no limit")
    create.add_argument("--max-concurrent", type=int, metavar="N", help="concurrent requests; default: no limit")
    listing = actions.add_parser("list", allow_abbrev=False, help="list all keys, newest first")
    revoke = actions.add_parser("revoke", allow_abbrev=False, help="revoke a key")
    revoke.add_argument("id", help="id of the key, as shown by `list`")
    for action in (create, listing, revoke):
        add_flags(action)
    return top
