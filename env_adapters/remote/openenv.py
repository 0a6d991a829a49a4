"""An OpenEnv server (BSD-3, Meta) as an environment: `openenv@URL`. A WebSocket is one session.

The server's `/schema` determines how an answer becomes an action. If an action has, or requires, a single field, the
answer is the value of that field (a string verbatim, any other type as JSON); otherwise the answer contains a JSON
object of the fields. If the server rejects an action as malformed, the player gets the message; any other error is a
failure of the environment.

Rewards are the server's own, one per step, so their sum is the return. A finished episode is a success if its last
reward is above 0 (the protocol has no verdict). Tasks are seeds, and the splits are chosen by this project.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from env_adapters.answer import blocks, read_action
from env_adapters.dress import as_json
from env_adapters.protocol import EnvironmentFailure, Reset, Transition
from env_adapters.remote.connection import (
    ANSWER_BYTES,
    TIMEOUT_S,
    Http,
    Place,
    RemoteInstance,
    RemoteSpec,
    number,
    parse,
    place,
    read_object,
    seed_of,
    seed_tasks,
)

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

NOT_ACTION = "VALIDATION_ERROR"
"""Error code of a server that did not understand an action."""
CONNECT_S = 20.0
CLOSE_S = 2.0


class Form:
    """Turns the text of an answer into an action."""

    def __init__(self, schema: Any) -> None:
        schema = schema if isinstance(schema, dict) else {}
        fields = schema.get("properties")
        fields = {
            name: part for name, part in (fields if isinstance(fields, dict) else {}).items() if name != "metadata"
        }
        required = [name for name in schema.get("required", []) if name in fields]
        only = list(fields) if len(fields) == 1 else required
        self._fields = set(fields)
        self.field = only[0] if len(only) == 1 else None
        """The single field whose value is the text, or None if an action is a JSON object."""
        self._type = fields[self.field].get("type") if self.field is not None else None
        self._is_text = self._type == "string"
        shown = {name: _about(part) for name, part in fields.items()}
        if self.field is None:
            self.rule = f"a JSON object with these fields: {json.dumps(shown, ensure_ascii=False)}"
        else:
            about = shown[self.field]
            self.rule = f"only this: {self.field}{f' ({about})' if about else ''}{'' if self._is_text else ', as JSON'}"

    def action(self, text: str) -> dict[str, Any]:
        """Return the fields of the action in an answer.

        Raises:
            ValueError: the answer contains no action.
        """
        if self.field is None:
            return self._of_fields(text)
        if self._is_text:
            return {self.field: self._message(text)}
        found = read_action(text, self._value)
        if found is None:
            raise ValueError("it is not JSON")
        return {self.field: found[0]}

    def _value(self, text: str) -> tuple[Any] | None:
        """Return the field's value in a JSON text, which may name the field; None if it is not JSON."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if isinstance(value, dict) and set(value) == {self.field}:
            return (value[self.field],)
        return None if isinstance(value, dict) and self._type != "object" else (value,)

    def _of_fields(self, text: str) -> dict[str, Any]:
        wrong = ValueError("it holds no JSON object")
        for part in blocks(text):
            try:
                found = read_object(part)
            except ValueError as error:
                wrong = error
                continue
            inner = found.get("action")
            return inner if isinstance(inner, dict) and "action" not in self._fields else found
        raise wrong

    def _message(self, text: str) -> str:
        """Return the answer's text, or the one that it gives as JSON under the name of the field or as `action`."""
        found = next(blocks(text)).strip(" \t\r\n`'\"*>")
        value = as_json(found)
        values = [value[key] for key in (self.field, "action") if key in value] if isinstance(value, dict) else []
        return values[0] if values and isinstance(values[0], str) else found


def _about(part: Any) -> str:
    part = part if isinstance(part, dict) else {}
    words = [part.get("type"), part.get("description")]
    choices = part.get("enum")
    return ", ".join([*(str(word) for word in words if word), *([f"one of {choices}"] if choices else [])])


class Remote(RemoteInstance):
    """One session, which begins at the first reset."""

    def __init__(self, where: Place) -> None:
        self._where = where
        self._socket: ClientConnection | None = None
        self._open = ExitStack()
        self._form = Form(None)
        self._about = ""
        self._over = True

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task."""
        wanted = seed_of(task, seed)
        if self._socket is None:
            self._connect()
        reply = self._ask({"type": "reset", "data": {"seed": wanted}})
        self._over = False
        rules = f"{self._about}\nAnswer with one action, {self._form.rule}".strip()
        return Reset(
            [{"role": "system", "content": rules}, {"role": "user", "content": _text(reply.get("observation"))}]
        )

    def step(self, text: str) -> Transition:
        """Send the action of an answer.

        Raises:
            ValueError: the episode is over or has not begun.
        """
        if self._over:
            raise ValueError("this episode is over or has not begun: reset it before a step")
        try:
            reply = self._ask({"type": "step", "data": self._form.action(text)})
        except ValueError as error:
            return Transition(f"Not an action: {error}. Answer with {self._form.rule}", 0.0, False, valid=False)
        done, reward = bool(reply.get("done")), number(reply.get("reward"))
        self._over = done
        return Transition(_text(reply.get("observation")), reward, done, success=reward > 0 if done else None)

    def close(self) -> None:
        """End the session."""
        self._over, self._socket = True, None
        self._open.close()  # Closing the socket ends the session.

    def _connect(self) -> None:
        import websockets
        from websockets.sync.client import connect

        http = Http(self._where)
        try:
            schema, about = http.call("GET", "/schema"), http.call("GET", "/metadata")
        finally:
            http.close()
        self._form = Form(schema.get("action") if isinstance(schema, dict) else None)
        self._about = str(about.get("description") or "") if isinstance(about, dict) else ""
        try:
            self._socket = self._open.enter_context(
                connect(
                    f"ws{self._where.url.removeprefix('http')}/ws",
                    additional_headers=self._where.headers,
                    open_timeout=CONNECT_S,
                    close_timeout=CLOSE_S,
                    max_size=ANSWER_BYTES,
                )
            )
        except (OSError, websockets.WebSocketException) as error:
            raise EnvironmentFailure(f"{self._where}/ws: {type(error).__name__}: {error}") from error

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return the data of its reply.

        Raises:
            ValueError: the server did not understand the action.
            EnvironmentFailure: any other failure.
        """
        import websockets

        assert self._socket is not None
        try:
            self._socket.send(json.dumps(message))
            reply = parse(str(self._socket.recv(timeout=TIMEOUT_S, decode=True)))
        except (OSError, websockets.WebSocketException) as error:
            raise EnvironmentFailure(f"{self._where}/ws: {type(error).__name__}: {error}") from error
        data = reply.get("data") if isinstance(reply, dict) else None
        if not isinstance(data, dict):
            raise EnvironmentFailure(f"{self._where}/ws answered {str(reply)[:300]}")
        if reply.get("type") == "error":
            if data.get("code") == NOT_ACTION and message["type"] == "step":
                first = next(iter(data.get("errors") or ()), None)
                raise ValueError(str(first.get("msg") if isinstance(first, dict) else data.get("message")))
            raise EnvironmentFailure(f"{self._where}/ws: {data.get('code')}: {data.get('message')}")
        return data


def _text(observation: Any) -> str:
    """Return an observation as text: its only field if that is a string, otherwise all of it as JSON."""
    if not isinstance(observation, dict):
        return observation if isinstance(observation, str) else json.dumps(observation, ensure_ascii=False)
    parts = {name: part for name, part in observation.items() if name not in ("metadata", "done", "reward")}
    only = next(iter(parts.values())) if len(parts) == 1 else None
    return only if isinstance(only, str) else json.dumps(parts, ensure_ascii=False)


def make_spec(argument: str, name: str) -> RemoteSpec:
    """Return the spec of a server by its URL.

    Raises:
        ValueError: the argument is not a URL.
    """
    where = place(argument)
    return RemoteSpec(name, f"The OpenEnv server at {where}.", seed_tasks(), partial(Remote, where))
