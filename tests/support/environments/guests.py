"""Raw clients of the protocols by which other trainers play the server's environments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from websockets.sync.client import ClientConnection, connect

from env_adapters import environment_spec
from tests.support.live import Live
from upturn.wire import EpisodeView

TEXTCRAFT = environment_spec("textcraft")
TASKS = [*TEXTCRAFT.tasks("train"), *TEXTCRAFT.tasks("test")]
TASK = TASKS.index("1/acacia_planks")
SOLUTION = ("get 1 acacia logs", "craft 4 acacia planks using 1 acacia logs")


def agentgym(live: Live, path: str, body: Any = None, environment: str = "textcraft", **more: Any) -> Any:
    answer = live.http.post(f"/agentgym/{environment}/{path}", json=body, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def openenv(live: Live, environment: str = "textcraft", **more: Any) -> Iterator[ClientConnection]:
    with connect(f"ws{live.url.removeprefix('http')}/openenv/{environment}/ws", **more) as socket:
        yield socket


def ask(socket: ClientConnection, kind: str, **data: Any) -> dict[str, Any]:
    socket.send(json.dumps({"type": kind, **({"data": data} if data or kind == "step" else {})}))
    return dict(json.loads(socket.recv()))


class Mcp:
    """A session of raw JSON-RPC."""

    def __init__(self, live: Live, environment: str = "textcraft", key: str | None = None) -> None:
        self.http, self.path = live.http, f"/mcp/{environment}"
        self.headers = {"authorization": f"Bearer {key}"} if key else {}

    def send(self, method: str, params: Any = None, ident: Any = 1) -> httpx2.Response:
        answer = self.http.post(
            self.path,
            headers=self.headers,
            json={"jsonrpc": "2.0", "id": ident, "method": method, **({} if params is None else {"params": params})},
        )
        if "mcp-session-id" in answer.headers:
            self.headers["mcp-session-id"] = answer.headers["mcp-session-id"]
        return answer

    def call(self, tool: str, **arguments: Any) -> Any:
        answer = self.send("tools/call", {"name": tool, "arguments": arguments}).json()
        return answer.get("result", answer.get("error"))


def recorded(live: Live) -> list[EpisodeView]:
    """Return all episodes, oldest first."""
    import sqlalchemy as sa

    from server.store.tables import EpisodeRow

    with live.parts.database.read() as session:
        ids = session.scalars(sa.select(EpisodeRow.id).order_by(EpisodeRow.opened_at)).all()
    return [live.client.episode(episode_id) for episode_id in ids]
