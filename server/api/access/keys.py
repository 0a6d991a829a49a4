"""Creates, lists and revokes API keys."""

from __future__ import annotations

import asyncio

from server.api.access.callers import Caller, Callers
from server.recording.keys import create_key, get_key, list_keys, revoke_key
from server.store.database import Database
from server.store.writer import Writer
from upturn.wire import KeyCreate, KeyCreated, KeyList


class Keys:
    """The API keys of this server."""

    def __init__(self, database: Database, writer: Writer, callers: Callers) -> None:
        self._database = database
        self._writer = writer
        self._callers = callers

    async def create(self, body: KeyCreate) -> KeyCreated:
        """Create a key and return it; it cannot be read again."""
        created = await self._writer.write(lambda session: create_key(session, body))
        self._callers.forget()
        return created

    async def all(self) -> KeyList:
        """Return all keys, newest first, including revoked keys."""

        def read() -> KeyList:
            with self._database.read() as session:
                return KeyList(data=list_keys(session))

        return await asyncio.to_thread(read)

    async def revoke(self, key_id: str) -> None:
        """Revoke a key, and with it the keys of the episodes it opened.

        Raises:
            NotFound: there is no such key.
        """
        await self._writer.write(lambda session: revoke_key(session, key_id))
        self._callers.forget()

    async def hash_of(self, key_id: str, caller: Caller) -> str:
        """Return the SHA-256 of a key; the id `me` stands for the caller's key.

        Raises:
            NotFound: there is no such key.
        """
        if key_id == "me":
            return caller.key_hash

        def read() -> str:
            with self._database.read() as session:
                return get_key(session, key_id).key_hash

        return await asyncio.to_thread(read)
