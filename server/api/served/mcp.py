"""The Model Context Protocol at `/mcp/{environment}`: streamable HTTP with JSON answers; each MCP session is one guest.

The tools are `reset` (a `task`, or a `seed`: 0, 1, 2, ... are the training tasks in turn), `act` (the player's whole
answer as text) and the environment's own. Every result has the text for the player and, as `structuredContent`,
`observation`, `reward`, `done` and `truncated`. A player's mistake is a result with `isError`.

Supported are the protocol revisions with sessions (up to 2025-11-25), since an episode needs one; newer clients
negotiate one of them. Server streams (GET) and batches are not supported. Only `application/json` is accepted, which a
foreign web page cannot send.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from env_adapters.protocol import EnvironmentSpec
from server.api.access.authentication import CallerOf, needs
from server.api.served.guests import Guest, GuestsOf, by_seed
from server.errors import BadRequest, Conflict, NotFound, UpturnError

router = APIRouter(prefix="/mcp", include_in_schema=False, dependencies=[needs("agent")])

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Newest first."""
PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, FAILED = -32700, -32600, -32601, -32602, -32000
SESSION = "mcp-session-id"


class ResetArguments(BaseModel):
    """Which task begins."""

    model_config = ConfigDict(extra="forbid", strict=True)

    task: str | None = Field(default=None, max_length=1000, description="A task by its name.")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**62,
        description="Without a task: which training task, else its seed.",  # prose: ok, a model reads it.
    )


class ActArguments(BaseModel):
    """What to do."""

    model_config = ConfigDict(extra="forbid", strict=True)

    action: str = Field(max_length=1_000_000, description="The action, as the instructions describe it.")


class Refused(Exception):
    """A request is answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@router.post("/{environment:path}")
async def message(environment: str, request: Request, guests: GuestsOf, caller: CallerOf) -> Response:
    """Answer one JSON-RPC message."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("MCP messages must be application/json", code="unsupported_media_type")
    try:
        sent = from_json(await request.body())
    except ValueError as error:
        return _failed(None, PARSE_ERROR, f"not JSON: {error}", 400)
    if not isinstance(sent, dict) or not isinstance(sent.get("method"), str):
        return _failed(None, INVALID_REQUEST, "the body is not a single JSON-RPC request", 400)
    ident, method, params = sent.get("id"), sent["method"], sent.get("params") or {}
    if not isinstance(params, dict) or not isinstance(ident, (str, int, type(None))):
        return _failed(None, INVALID_REQUEST, "params must be an object and id a string or an integer", 400)
    if ident is None:
        return Response(status_code=202)
    spec = await guests.environment(environment)
    if method == "initialize":
        name = secrets.token_urlsafe(24)
        await guests.add(f"mcp/{name}", guests.new(environment, caller.key_hash, "mcp"))
        return _answer(ident, _about(spec, params), {SESSION: name})
    if method == "ping":
        return _answer(ident, {})
    guest = guests.find(f"mcp/{request.headers.get(SESSION, '')}", environment, caller.key_hash)
    if guest is None:
        named = SESSION in request.headers
        return _failed(
            ident, INVALID_REQUEST, "unknown session" if named else "initialize first", 404 if named else 400
        )
    try:
        if method == "tools/list":
            return _answer(ident, {"tools": _tools(spec)})
        if method == "tools/call":
            return _answer(ident, await _call(guest, spec, params))
        raise Refused(NO_METHOD, f"unknown method {method[:100]!r}")
    except Refused as error:
        return _failed(ident, error.code, str(error))


@router.delete("/{environment:path}", status_code=204)
async def leave(environment: str, request: Request, guests: GuestsOf, caller: CallerOf) -> None:
    """End a session."""
    name = f"mcp/{request.headers.get(SESSION, '')}"
    guest = guests.find(name, environment, caller.key_hash)
    if guest is None:
        raise NotFound("unknown session", code="session_not_found")
    guests.remove(name)
    async with guest.lock:
        await guest.leave("its client left")


def _about(spec: EnvironmentSpec, params: dict[str, Any]) -> dict[str, Any]:
    asked = params.get("protocolVersion")
    return {
        "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
        "capabilities": {"tools": {}},
        "serverInfo": {"name": f"upturn/{spec.name}", "version": "1"},
        "instructions": f"{spec.description} Begin with the tool reset.",
    }


def _tools(spec: EnvironmentSpec) -> list[dict[str, Any]]:
    own = [
        {
            "name": tool["function"]["name"],
            "description": tool["function"].get("description", ""),
            "inputSchema": tool["function"].get("parameters", {"type": "object"}),
        }
        for tool in spec.tools
    ]
    ours = [
        {
            "name": "reset",
            "description": "Begin a task; the last one ends.",
            "inputSchema": ResetArguments.model_json_schema(),
        },
        {"name": "act", "description": "Do an action.", "inputSchema": ActArguments.model_json_schema()},
    ]
    return ours + [tool for tool in own if tool["name"] not in ("reset", "act")]


async def _call(guest: Guest, spec: EnvironmentSpec, params: dict[str, Any]) -> dict[str, Any]:
    """Call a tool and return its result.

    Raises:
        Refused: the tool is unknown, its arguments are invalid, or the environment failed.
    """
    tool, arguments = params.get("name"), params.get("arguments") or {}
    if tool not in [known["name"] for known in _tools(spec)] or not isinstance(arguments, dict):
        raise Refused(INVALID_PARAMS, f"unknown tool {str(tool)[:100]!r}, or its arguments are not an object")
    try:
        async with guest.lock:
            if tool == "reset":
                return await _begin(guest, ResetArguments.model_validate(arguments))
            if tool == "act":
                result = await guest.act(ActArguments.model_validate(arguments).action)
            else:
                result = await guest.call(str(tool), arguments)
            return _result(
                result.observation,
                {
                    "reward": result.reward,
                    "done": result.terminated,
                    "truncated": result.truncated,
                    "turns_left": result.turns_left,
                },
            )
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(INVALID_PARAMS, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (BadRequest, Conflict, NotFound) as error:
        return {"content": [{"type": "text", "text": error.message}], "isError": True}
    except UpturnError as error:
        raise Refused(FAILED, error.message) from error


async def _begin(guest: Guest, asked: ResetArguments) -> dict[str, Any]:
    task, seed = (asked.task, asked.seed % 2**31) if asked.task else await by_seed(guest.environment, asked.seed)
    await guest.begin(task, seed)
    first = "\n\n".join(part for part in (guest.instructions, guest.observation) if part)
    return _result(first, {"reward": 0.0, "done": False, "truncated": False, "task": task})


def _result(text: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "content": [{"type": "text", "text": text}],
        "isError": False,
        "structuredContent": {"observation": text, **fields},
    }


def _answer(ident: str | int, result: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps({"jsonrpc": "2.0", "id": ident, "result": result}), 200, headers, "application/json")


def _failed(ident: str | int | None, code: int, message: str, status: int = 200) -> Response:
    body = {"jsonrpc": "2.0", "id": ident, "error": {"code": code, "message": message}}
    return Response(json.dumps(body), status, media_type="application/json")
