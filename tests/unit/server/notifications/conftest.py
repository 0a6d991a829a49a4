"""Servers whose notifications look and retry without pauses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.wiring.parts import Parts
from tests.support.in_process import running
from tests.support.live import script, settings_for
from tests.support.notifications.receiver import Receiver, receiving
from tests.support.notifications.told import notify

Server = Callable[..., AbstractAsyncContextManager[Parts]]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    for name in ("delivery.FIRST_S", "delivery.DATABASE_S", "notifications.PAUSE_S"):
        monkeypatch.setattr(f"server.notifications.{name}", 0.01)
    monkeypatch.setattr("server.notifications.delivery.GROWTH", 1.0)
    with receiving() as made:
        yield made


@pytest.fixture
def server(tmp_path: Path, receiver: Receiver) -> Server:
    """Runs a server on the same database as the one before; its notifications start, unless `start=False`."""
    model = str(script(tmp_path / "script", "base"))
    url = f"sqlite:///{tmp_path / 'data' / 'upturn.db'}?timeout=0.2"

    @asynccontextmanager
    async def run(*, start: bool = True, off: bool = False, **more: Any) -> AsyncIterator[Parts]:
        chosen = {} if off else {"notify": notify(receiver, **more)}
        settings = settings_for(tmp_path / "data", model=model, database_url=url, **chosen)
        async with running(settings) as parts:
            if start:
                await parts.notifications.start()
            yield parts

    return run
