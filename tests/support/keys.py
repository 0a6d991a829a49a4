"""Keys for tests, and clients that use them."""

from __future__ import annotations

from typing import Any

from server.recording.keys import create_key
from tests.support.live import Live
from upturn.client import Client
from upturn.wire import KeyCreate, KeyCreated


def new_key(live: Live, *scopes: Any, **limits: int) -> KeyCreated:
    request = KeyCreate(name=f"the {'-'.join(scopes)}", scopes=list(scopes), **limits)
    return live.parts.writer.submit(lambda session: create_key(session, request)).result()


def client(live: Live, key: str) -> Client:
    return live.closing.enter_context(Client(live.url, key=key, retry_s=0))
