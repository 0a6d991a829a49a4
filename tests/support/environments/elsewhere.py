"""A small game behind each of AgentGym's protocol variants, on a loopback port: guess 1, then 2.

AgentGym's servers are not packaged, so this imitates the shapes of their responses: numbers, lists, texts, objects.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LIST = '\nAvailable actions: ["1", "2"]'


class Guessing:
    """The state of one server: its kind, its single instance, and the requests that it got."""

    def __init__(self, kind: str) -> None:
        self.kind, self.url = kind, ""
        self.closed = False
        self.unknown_fields: list[str] = []
        self.step_answer: str | None = None
        self.status = 200
        self.score: float = {"sciworld": 100, "babyai": 0.9}.get(kind, 1)
        self.worth = {"babyai": 0.9}.get(kind, 1.0)
        self.key = "id" if kind in ("textcraft", "babyai", "sciworld", "alfworld", "maze", "wordle") else "env_idx"
        self.tool = kind in ("weather", "movie", "academia", "todo", "sheet")

    def say(self, guess: str) -> str:
        """Return a guess in the form that this kind requires."""
        return {
            "webarena": f"```{guess}```",
            "searchqa": f"<answer>{guess}</answer>",
            "sqlgym": f"```sql\n{guess}\n```",
        }.get(self.kind, f"Action: {guess}")

    def answer(self, path: str, body: dict[str, Any] | None) -> Any:
        """Return the response to a request."""
        assert path.startswith({"maze": "/maze/", "wordle": "/wordle/"}.get(self.kind, "/")), path
        call = path.rpartition("/")[2]
        if call == "create":
            assert (body is None) == (self.kind not in ("textcraft", "searchqa") and not self.tool)
            return {"id": 5} if self.key == "id" else {"env_idx": 5} if self.kind == "webarena" else 5
        assert body is not None and body.pop(self.key) == 5
        return getattr(self, f"_{call}")(body)

    def _reset(self, body: dict[str, Any]) -> Any:
        index = {
            "alfworld": "game",
            "maze": "game",
            "wordle": "seed",
            "webshop": "session_id",
            "webarena": "idx",
            "sqlgym": "item_id",
            "searchqa": "id",
        }.get(self.kind, "id" if self.tool else "data_idx")
        text = f"This is task {body.pop(index)}."
        self.unknown_fields += [
            name for name in body if (self.kind, name) not in (("alfworld", "world_type"), ("webarena", "seed"))
        ]
        if self.kind in ("webshop", "sqlgym"):
            return [text, None]
        if self.kind == "searchqa" or self.tool:
            return text
        if self.kind == "webarena":
            return {"observation": text, "sites": ["map"], "object": "intent"}
        more = {"alfworld": {"available_actions": ["1", "2"], "task_type": "pick"}}.get(self.kind, {"reward": 0})
        return {"id": 5, "observation": text + (LIST if self.kind == "babyai" else ""), "done": False, **more}

    def _step(self, body: dict[str, Any]) -> Any:
        action = body.pop("action")
        won, lost = "2" in action, action == "lose"
        value = -100 if lost else 50 if action == "half" else self.score if won else 0
        end = {"terminated": won, "truncated": False, "info": {}} if self.kind == "webarena" else {"done": won or lost}
        name = "state" if self.kind in ("webshop", "sqlgym") else "observation"
        more = {"score": value, "reward": 0} if self.kind in ("sciworld", "babyai") else {"reward": value}
        return {name: "Yes." if won else "No.", **end, **more}

    def _close(self, body: dict[str, Any]) -> Any:
        self.closed = True
        return {"closed": "closed"} if self.kind == "webarena" else True


@contextmanager
def guessing(kind: str) -> Iterator[Guessing]:
    """Serve the game until the block ends."""
    game = Guessing(kind)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            said = json.dumps(game.answer(self.path, json.loads(content) if content else None))
            if self.path.endswith("/step") and game.step_answer is not None:
                said = game.step_answer
            self.send_response(game.status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    game.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield game
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
