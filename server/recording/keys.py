"""API keys: generated, hashed, stored as rows, revoked. A key is stored as its hash and shown once.

Functions of a session, so that the running server (through its writer) and `python -m server keys` share them.
`server/api/` decides who may do what with a key.
"""

from __future__ import annotations

import hashlib
import secrets
import time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import NotFound
from server.store.database import new_id
from server.store.tables import ApiKeyRow
from upturn.wire import KeyCreate, KeyCreated, KeyView

API_KEY = "up-"
"""Prefix of API keys."""
EPISODE_KEY = "ep-"
"""Prefix of the API keys that belong to one episode."""


def new_key() -> str:
    """Return an API key that cannot be guessed."""
    return f"{API_KEY}{secrets.token_urlsafe(32)}"


def new_episode_key() -> str:
    """Return an episode's own API key, which cannot be guessed."""
    return f"{EPISODE_KEY}{secrets.token_urlsafe(24)}"


def hash_of(key: str) -> str:
    """Return the SHA-256 of an API key; the key itself is never stored."""
    return hashlib.sha256(key.encode()).hexdigest()


def create_key(session: Session, request: KeyCreate) -> KeyCreated:
    """Store a new key and return it; it cannot be read again."""
    key = new_key()
    row = ApiKeyRow(
        id=new_id("key"),
        key_hash=hash_of(key),
        name=request.name,
        scopes=sorted(set(request.scopes)),
        reward_sources=None if request.reward_sources is None else sorted(set(request.reward_sources)),
        requests_per_minute=request.requests_per_minute,
        max_concurrent=request.max_concurrent,
        created_at=time.time(),
    )
    session.add(row)
    return KeyCreated(key=key, **dict(_view(row)))


def list_keys(session: Session) -> list[KeyView]:
    """Return all keys, newest first."""
    return [_view(row) for row in session.scalars(sa.select(ApiKeyRow).order_by(ApiKeyRow.id.desc()))]


def revoke_key(session: Session, key_id: str) -> None:
    """Revoke a key. Its row stays, because its episodes refer to it.

    Raises:
        NotFound: there is no such key.
    """
    row = get_key(session, key_id)
    row.revoked_at = row.revoked_at or time.time()


def get_key(session: Session, key_id: str) -> ApiKeyRow:
    """Return a key's row.

    Raises:
        NotFound: there is no such key.
    """
    row = session.get(ApiKeyRow, key_id)
    if row is None:
        raise NotFound(f"no key {key_id!r}", code="key_not_found")
    return row


def first_admin_key(session: Session) -> KeyCreated | None:
    """Create an admin key unless an unrevoked one exists, so that nobody is locked out."""
    if any("admin" in key.scopes and key.revoked_at is None for key in list_keys(session)):
        return None
    return create_key(session, KeyCreate(name="first admin", scopes=["admin"]))


def _view(row: ApiKeyRow) -> KeyView:
    return KeyView(
        id=row.id,
        name=row.name,
        scopes=row.scopes,
        reward_sources=row.reward_sources,
        requests_per_minute=row.requests_per_minute,
        max_concurrent=row.max_concurrent,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
