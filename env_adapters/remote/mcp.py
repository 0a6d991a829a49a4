"""An MCP tool server as an environment: `mcp@URL`, or `mcp@URL#end=TOOL`.

Every tool of the server is an action. An answer is one call, `tool_name {"argument": value}`; agents that call tools
use the tools directly. MCP has no episodes, so this project defines these conventions:

- A tool named `reset` begins an episode. It gets the `seed` if it has such a parameter, its result is the first
  observation, and players do not see the tool. Without it, every task begins the same.
- A result that is an object (`structuredContent`, or JSON text) may have the fields `observation`, `reward`, `done`,
  `truncated` and `success`. Any other result is an observation with reward 0.
- With `#end=TOOL`, a call of that tool ends the episode; a result that is only a number is its reward.
- A finished episode without `success` is a success if its last reward is above 0.

If the server refuses a call or a tool reports an error, the player gets the message. Tasks are seeds, and the splits
are chosen by this project.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator
from typing import Any

from env_adapters.answer import LAST_LINES, blocks, nearest, said
from env_adapters.dress import forms, lines, with_input
from env_adapters.protocol import EnvironmentFailure, Reset, Transition
from env_adapters.remote.connection import (
    Place,
    RemoteInstance,
    RemoteSpec,
    number,
    place,
    read_object,
    seed_of,
    seed_tasks,
)
from env_adapters.remote.mcp_client import McpSession, WrongCall

log = logging.getLogger("upturn.environments")

BEGIN = "reset"
"""The tool that begins an episode."""


class Remote(RemoteInstance):
    """One session."""

    def __init__(self, where: Place, session: McpSession, end: str | None) -> None:
        self._where, self._session, self._end = where, session, end
        self._over, self._closed = True, False

    def reset(self, task: str, seed: int) -> Reset:
        """Begin a task."""
        wanted = seed_of(task, seed)
        session, first = self._session, "Begin."
        if begin := session.tools.get(BEGIN):
            takes = (begin.get("inputSchema") or {}).get("properties") or {}
            try:
                result = session.call(BEGIN, {"seed": wanted} if "seed" in takes else {})
            except WrongCall as error:
                raise EnvironmentFailure(f"reset at {self._where} needs more than a seed: {error}") from error
            if result.get("isError"):
                raise EnvironmentFailure(f"reset at {self._where} failed: {_text(result)[:300]}")
            first = _read(result)[0]
        self._over = False
        return Reset([{"role": "system", "content": self._rules(session)}, {"role": "user", "content": first}])

    def _rules(self, session: McpSession) -> str:
        lines = [
            str(session.about.get("instructions") or "").strip(),
            'Answer with one call only, like: tool_name {"argument": value}',
            "Tools:",
        ]
        for name, tool in _playable(session).items():
            takes = json.dumps((tool.get("inputSchema") or {}).get("properties") or {}, ensure_ascii=False)
            lines.append(f"{name} {takes}: {' '.join(str(tool.get('description') or '').split())}")
        return "\n".join(line for line in lines if line)

    def step(self, text: str) -> Transition:
        """Make the tool call of an answer.

        Raises:
            ValueError: the episode is over or has not begun.
        """
        if self._over:
            raise ValueError("this episode is over or has not begun: reset it before a step")
        tools = _playable(self._session)
        try:
            name, arguments = read_call(text, tools)
            if name not in tools:
                raise ValueError(f"there is no tool {name[:100]!r}")  # prose: ok (a model sees it)
            result = self._session.call(name, arguments)
        except ValueError as error:
            near = nearest(re.split(r"[\s({]", said(text), maxsplit=1)[0], tools)
            return Transition(f"Not a call: {error}. Tools: {', '.join(tools)}{near}", 0.0, False, valid=False)
        if result.get("isError"):
            return Transition(_text(result), 0.0, False, valid=False)
        observation, fields = _read(result)
        done = bool(fields.get("done")) or name == self._end
        truncated = bool(fields.get("truncated")) and not done
        reward = number(fields.get("reward"))
        self._over = done or truncated
        success = bool(fields.get("success", reward > 0)) if self._over else None
        return Transition(observation, reward, done, truncated, success)

    def close(self) -> None:
        """End the session."""
        self._over = True
        if not self._closed:
            self._closed = True
            try:
                self._session.close()
            except EnvironmentFailure as error:
                log.warning("could not end a session at %s: %s", self._where, error)


def read_call(text: str, tools: Collection[str] = ()) -> tuple[str, dict[str, Any]]:
    """Return the tool and the arguments of an answer.

    Args:
        text: the answer.
        tools: the tools that exist. A line that begins with another name is not a call, if one of the lines is.

    Raises:
        ValueError: the answer is not a call.
    """
    parts = [part for block in blocks(text) for part in (block, *reversed(lines(block)[1:][-LAST_LINES:]))]
    wrong: ValueError | None = None
    for must_exist in (True, False):
        for part in parts:
            broken = False
            for form in forms_of_call(part):
                found = re.match(r"([\w.-]+)\s*(.*)", form, re.DOTALL)
                if found is None or (must_exist and found[1] not in tools):
                    continue
                if "{" not in found[2]:
                    if broken:  # The name alone would be a call without its arguments.
                        continue
                    return found[1], {}
                try:
                    return found[1], read_object(found[2])
                except ValueError as error:
                    wrong, broken = wrong or error, True
    raise wrong or ValueError("it names no tool")


def forms_of_call(text: str) -> Iterator[str]:
    """Yield what a text may be as a call: itself on several lines, its JSON, or its first line without its dress."""
    yield from with_input(text, _text_of)
    if not text.startswith("{"):
        yield text.strip(" \t\r\n`'\"*>")
    yield from forms(text, _text_of)


def _text_of(name: str, arguments: dict[str, Any]) -> str:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{name!r} is not the name of a tool")
    return f"{name} {json.dumps(arguments, ensure_ascii=False)}"


def _playable(session: McpSession) -> dict[str, dict[str, Any]]:
    return {name: tool for name, tool in session.tools.items() if name != BEGIN}


def _text(result: dict[str, Any]) -> str:
    """Return the texts of a result."""
    parts = result.get("content")
    texts = [part.get("text") for part in (parts if isinstance(parts, list) else []) if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _read(result: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the observation and the fields of a result; a result that is only a number is a reward."""
    text, fields = _text(result), result.get("structuredContent")
    if not isinstance(fields, dict):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            fields = {}
    if isinstance(fields, dict) and set(fields) == {"result"}:  # FastMCP wraps results that are not objects.
        fields = fields["result"]
    if isinstance(fields, (bool, int, float)):
        fields = {"reward": fields}
    fields = fields if isinstance(fields, dict) else {}
    observation = fields.get("observation")
    return (observation if isinstance(observation, str) else text), fields


class Mcp(RemoteSpec):
    """One tool server."""

    def __init__(self, name: str, where: Place, end: str | None) -> None:
        super().__init__(name, f"The MCP server at {where}.", seed_tasks(), self._connect)
        self._where, self._end = where, end
        self._known: list[dict[str, Any]] = []

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The server's tools, known after the first instance was made: listing sends no request."""
        return self._known

    def _connect(self) -> Remote:
        session = McpSession(self._where)
        self._known = [
            {
                "type": "function",
                "function": {
                    "name": name,
                    "description": str(tool.get("description") or ""),
                    "parameters": tool.get("inputSchema") or {"type": "object"},
                },
            }
            for name, tool in _playable(session).items()
        ]
        return Remote(self._where, session, self._end)

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Return a call as text. The server decides whether the tool exists."""
        return _text_of(name, arguments)


def make_spec(argument: str, name: str) -> Mcp:
    """Return the spec of a server by its URL.

    Raises:
        ValueError: the argument is not such a URL.
    """
    where = place(argument)
    key, _, end = where.fragment.partition("=")
    if where.fragment and (key != "end" or not end):
        raise ValueError(f"#{where.fragment} is not #end=TOOL")
    return Mcp(name, where, end or None)
