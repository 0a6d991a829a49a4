"""OpenEnv's protocol at `/openenv/{environment}`: a WebSocket (`/ws`) plays, the other routes describe.

An action is `{"message": TEXT}`, the player's whole answer; an observation is `{"message": TEXT}`, preceded by the
instructions in the first one. A reset takes a `task` or a `seed`: 0, 1, 2, ... are the training tasks in turn. The key
is read from the handshake's headers. OpenEnv's reset and step over plain HTTP keep no state between requests, so they
are not offered.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from server.api.access.authentication import CallersOf, LimitsOf, key_of, needs
from server.api.access.callers import Caller, Callers
from server.api.access.json_shape import JsonShape
from server.api.access.limits import Limits
from server.api.served.guests import Guest, GuestsOf, by_seed
from server.errors import Forbidden, RateLimited, UpturnError
from server.store.database import BROKEN, unavailable

_CHUNK = 2**16

router = APIRouter(prefix="/openenv/{environment:path}", include_in_schema=False)
KEY_NEEDED = needs("agent")


class Action(BaseModel):
    """The payload of a step."""

    model_config = ConfigDict(extra="forbid", strict=True)

    message: str = Field(max_length=1_000_000, description="The player's whole answer.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Not used.")


class Observation(BaseModel):
    """What the player observes."""

    message: str = Field(description="What the environment says.")


class Asked(BaseModel):
    """The payload of a reset; other fields are ignored, as in OpenEnv."""

    model_config = ConfigDict(strict=True)

    seed: int | None = Field(default=None, ge=0, lt=2**62)
    episode_id: str | None = Field(default=None, max_length=255, pattern=r"^[ -~]*$")
    task: str | None = Field(default=None, max_length=1000)


class SessionState(BaseModel):
    """State of a session."""

    episode_id: str | None = None
    step_count: int = 0
    task: str | None = None


@router.get("/health", dependencies=[KEY_NEEDED])
async def health(environment: str, guests: GuestsOf) -> dict[str, str]:
    """Return 200 if the environment exists."""
    await guests.environment(environment)
    return {"status": "healthy"}


@router.get("/metadata", dependencies=[KEY_NEEDED])
async def metadata(environment: str, guests: GuestsOf) -> dict[str, str]:
    """Describe the environment."""
    spec = await guests.environment(environment)
    return {"name": spec.name, "description": spec.description}


@router.get("/schema", dependencies=[KEY_NEEDED])
async def schema() -> dict[str, Any]:
    """Return the JSON schemas of actions, observations and the state."""
    return {
        "action": Action.model_json_schema(),
        "observation": Observation.model_json_schema(),
        "state": SessionState.model_json_schema(),
    }


@router.get("/state", dependencies=[KEY_NEEDED])
async def state() -> SessionState:
    """Return an empty state: plain HTTP has no sessions."""
    return SessionState()


@router.websocket("/ws")
async def session(environment: str, socket: WebSocket, guests: GuestsOf, callers: CallersOf, limits: LimitsOf) -> None:
    """Play: reset, step, state and close."""
    await socket.accept()
    guest: Guest | None = None
    try:
        guest = guests.new(environment, (await _caller(callers, socket)).key_hash, "openenv")
        await guests.environment(environment)
        while (message := await socket.receive())["type"] == "websocket.receive":
            caller = await _caller(callers, socket)  # Again, since the key may have been revoked.
            reply = await _within_limits(limits, caller, guest, message.get("text") or "", guests.max_message_bytes)
            if reply is None:
                break
            await socket.send_text(json.dumps(reply))
    except WebSocketDisconnect:
        pass
    except UpturnError as error:
        await _last(socket, _error(error.message, "SESSION_ERROR"))
    except BROKEN as error:
        await _last(socket, _error(unavailable(error).message, "SESSION_ERROR"))
    finally:
        if guest is not None:
            await guest.leave("its client left")
        with suppress(RuntimeError, WebSocketDisconnect):  # Already closed.
            await socket.close()


async def _caller(callers: Callers, socket: WebSocket) -> Caller:
    caller = await callers.find(key_of(socket.headers), socket.client.host if socket.client else "")
    if not caller.may("agent"):
        raise Forbidden(f"{caller.name!r} lacks the required scope: agent")
    return caller


async def _last(socket: WebSocket, message: dict[str, Any]) -> None:
    with suppress(RuntimeError, WebSocketDisconnect):  # The client has disconnected.
        await socket.send_text(json.dumps(message))


async def _within_limits(
    limits: Limits, caller: Caller, guest: Guest, text: str, most_bytes: int
) -> dict[str, Any] | None:
    """Answer a message, which counts as a request of the key."""
    try:
        limits.enter(caller.limit)
    except RateLimited as error:
        return _error(error.message, "CAPACITY_REACHED")
    try:
        return await _reply(guest, text, most_bytes)
    finally:
        limits.leave(caller.limit)


async def _reply(guest: Guest, text: str, most_bytes: int) -> dict[str, Any] | None:
    """Return the answer to a message; None if the client closes the session."""
    if len(text) > most_bytes:
        return _error(f"the message is longer than {most_bytes} characters", "VALIDATION_ERROR")
    try:
        shape = JsonShape()
        for begin in range(0, len(text), _CHUNK):
            shape.add(text[begin : begin + _CHUNK].encode(errors="replace"))
        message = from_json(text)
    except UpturnError as error:
        return _error(error.message, "VALIDATION_ERROR")
    except (ValueError, UnicodeError) as error:
        return _error(f"Invalid JSON: {error}", "INVALID_JSON")
    kind = message.get("type") if isinstance(message, dict) else None
    data = message.get("data", {}) if isinstance(message, dict) else {}
    try:
        match kind:
            case "reset":
                asked = Asked.model_validate(data)
                task, seed = await by_seed(guest.environment, asked.seed or 0)
                await guest.begin(
                    asked.task or task, (asked.seed or 0) % 2**31 if asked.task else seed, asked.episode_id
                )
                first = "\n\n".join(part for part in (guest.instructions, guest.observation) if part)
                return _observed(first, 0.0, False, {"task": guest.task})
            case "step":
                result = await guest.act(Action.model_validate(data).message)
                return _observed(result.observation, result.reward, guest.done, {"truncated": result.truncated})
            case "state":
                return {
                    "type": "state",
                    "data": SessionState(
                        episode_id=guest.episode_id, step_count=guest.steps, task=guest.task
                    ).model_dump(),
                }
            case "close":
                return None
        return _error(f"Unknown message type: {str(kind)[:100]}", "UNKNOWN_TYPE")
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        return _error("Invalid message", "VALIDATION_ERROR", errors=wrong)
    except RateLimited as error:
        return _error(error.message, "CAPACITY_REACHED")
    except UpturnError as error:
        return _error(error.message, "EXECUTION_ERROR")


def _observed(text: str, reward: float, done: bool, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "observation",
        "data": {"observation": {"message": text}, "reward": reward, "done": done, "metadata": more},
    }


def _error(message: str, code: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "data": {"message": message, "code": code, **more}}
