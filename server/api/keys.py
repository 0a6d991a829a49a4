"""API keys over REST: create, list, revoke; erase or trace all episodes that a key opened.

The id `me` stands for the caller's own key, even on a server that requires no keys and stores none.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from server.api.access.authentication import CallerOf, needs
from server.api.access.json_route import JsonRoute
from server.api.access.keys import Keys
from server.api.services import service
from server.recording.privacy import Privacy
from upturn.wire import CallerView, Erased, KeyCreate, KeyCreated, KeyList, KeyTrained

KeysOf = Annotated[Keys, service(Keys)]
PrivacyOf = Annotated[Privacy, service(Privacy)]

router = APIRouter(prefix="/v1/keys", tags=["keys"], route_class=JsonRoute)


@router.get("/me")
async def me(caller: CallerOf) -> CallerView:
    """Return whose key the request has, and what it may do."""
    return CallerView(name=caller.name, scopes=sorted(caller.scopes), episode_id=caller.episode_id)


@router.post("", status_code=201, dependencies=[needs("admin")])
async def create(body: KeyCreate, keys: KeysOf) -> KeyCreated:
    """Create a key. Only this answer contains it."""
    return await keys.create(body)


@router.get("", dependencies=[needs("admin")])
async def list_all(keys: KeysOf) -> KeyList:
    """List all keys, newest first, including revoked keys."""
    return await keys.all()


@router.delete("/{key_id}", status_code=204, dependencies=[needs("admin")])
async def revoke(key_id: str, keys: KeysOf) -> None:
    """Revoke a key, and with it the keys of the episodes it opened."""
    await keys.revoke(key_id)


@router.delete("/{key_id}/episodes", dependencies=[needs("admin")])
async def erase_episodes(key_id: str, keys: KeysOf, privacy: PrivacyOf, caller: CallerOf) -> Erased:
    """Erase every episode that a key opened."""
    return Erased(episodes=await privacy.erase_owned(await keys.hash_of(key_id, caller)))


@router.get("/{key_id}/trained", dependencies=[needs("admin")])
async def trained(key_id: str, keys: KeysOf, privacy: PrivacyOf, caller: CallerOf) -> KeyTrained:
    """List the runs and policy versions that were trained on a key's episodes."""
    return await privacy.trained_of(await keys.hash_of(key_id, caller))
