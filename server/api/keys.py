"""API keys over REST: create, list, revoke; and everything that one of them has opened: erase it, trace it.

`me` in place of an id is the caller's own key, also on a server that requires none and therefore knows none.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from server.api.access.authentication import CallerOf
from server.api.access.callers import Caller
from server.api.state import Parts, State
from server.recording.keys import create_key, get_key, list_keys, revoke_key
from upturn.wire import Erased, KeyCreate, KeyCreated, KeyList, KeyTrained

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201)
async def create(body: KeyCreate, parts: Parts) -> KeyCreated:
    """Create a key; the answer alone shows it."""
    return await parts.writer.write(lambda session: create_key(session, body))


@router.get("")
async def list_all(parts: Parts) -> KeyList:
    """All keys, newest first, with the revoked ones."""

    def read() -> KeyList:
        with parts.database.read() as session:
            return KeyList(data=list_keys(session))

    return await asyncio.to_thread(read)


@router.delete("/{key_id}", status_code=204)
async def revoke(key_id: str, parts: Parts) -> None:
    """Revoke a key, and with it the keys of the episodes it opened."""
    await parts.writer.write(lambda session: revoke_key(session, key_id))
    parts.callers.forget()


@router.delete("/{key_id}/episodes")
async def erase_episodes(key_id: str, parts: Parts, caller: CallerOf) -> Erased:
    """Erase every episode that a key has opened."""
    return Erased(episodes=await parts.privacy.erase_owned(await _hash_of(parts, caller, key_id)))


@router.get("/{key_id}/trained")
async def trained(key_id: str, parts: Parts, caller: CallerOf) -> KeyTrained:
    """Which runs and policy versions were trained on a key's episodes."""
    return await parts.privacy.trained_of(await _hash_of(parts, caller, key_id))


async def _hash_of(parts: State, caller: Caller, key_id: str) -> str:
    if key_id == "me":
        return caller.key_hash

    def read() -> str:
        with parts.database.read() as session:
            return get_key(session, key_id).key_hash

    return await asyncio.to_thread(read)
