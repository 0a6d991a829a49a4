"""OpenEnv's protocol at `/openenv/{environment}`: a WebSocket (`/ws`) is a session, the rest describes it.

An action is `{"message": TEXT}`, the player's whole answer; an observation `{"message": TEXT}`, the first one with the
instructions before it. A reset takes `task` (one of ours) or `seed`: 0, 1, 2, ... are the training tasks in turn. The
key comes in the handshake's headers. Over plain HTTP, OpenEnv's own reset and step keep nothing between two requests,
so there are none here.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.api.access.authentication import key_of, needs
from server.api.access.callers import Caller
from server.api.served.guests import Guest, by_seed
from server.api.state import Parts, State
from server.errors import Forbidden, RateLimited, UpturnError
from server.store.database import BROKEN, unavailable

router = APIRouter(prefix="/openenv/{environment:path}", include_in_schema=False)
KEY_NEEDED = needs("agent")


class Action(BaseModel):
    """What a step takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    message: str = Field(max_length=1_000_000, description="The player's whole answer.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Not used.")


class Observation(BaseModel):
    """What a player sees."""

    message: str = Field(description="What the environment says.")


class Asked(BaseModel):
    """What a reset takes; fields beyond it are ignored, as OpenEnv does."""

    model_config = ConfigDict(strict=True)

    seed: int | None = Field(default=None, ge=0, lt=2**62)
    episode_id: str | None = Field(default=None, max_length=255, pattern=r"^[ -~]*$")
    task: str | None = Field(default=None, max_length=1000)


class SessionState(BaseModel):
    """Where a session stands."""

    episode_id: str | None = None
    step_count: int = 0
    task: str | None = None


@router.get("/health", dependencies=[KEY_NEEDED])
async def health(environment: str, parts: Parts) -> dict[str, str]:
    """Say that the environment is there."""
    await parts.environments.instances.spec(environment)
    return {"status": "healthy"}


@router.get("/metadata", dependencies=[KEY_NEEDED])
async def metadata(environment: str, parts: Parts) -> dict[str, str]:
    """Describe the environment."""
    found = await parts.environments.instances.spec(environment)
    return {"name": found.name, "description": found.description}


@router.get("/schema", dependencies=[KEY_NEEDED])
async def schema() -> dict[str, Any]:
    """Tell the JSON schemas of actions, observations and the state."""
    return {
        "action": Action.model_json_schema(),
        "observation": Observation.model_json_schema(),
        "state": SessionState.model_json_schema(),
    }


@router.get("/state", dependencies=[KEY_NEEDED])
async def state() -> SessionState:
    """Tell the state of no session, which plain HTTP has none of."""
    return SessionState()


@router.websocket("/ws")
async def session(environment: str, socket: WebSocket) -> None:
    """Play: reset, step, state and close."""
    parts: State = socket.app.state.parts
    await socket.accept()
    guest: Guest | None = None
    try:
        _must_be_from_here(socket)
        guest = Guest(parts, environment, (await _caller(parts, socket)).key_hash, "openenv")
        await parts.environments.instances.spec(environment)
        while (message := await socket.receive())["type"] == "websocket.receive":
            caller = await _caller(parts, socket)  # Again: the key may have been revoked.
            reply = await _within_limits(parts, caller, guest, message.get("text") or "")
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
        with suppress(RuntimeError, WebSocketDisconnect):  # It is closed already.
            await socket.close()


def _must_be_from_here(socket: WebSocket) -> None:
    origin = socket.headers.get("origin")
    if origin and urlsplit(origin).netloc != socket.headers.get("host"):  # A browser asks nobody before it connects.
        raise Forbidden(f"a page of {origin[:200]} may not play here")


async def _caller(parts: State, socket: WebSocket) -> Caller:
    caller = await parts.callers.find(key_of(socket.headers))
    if not caller.may("agent"):
        raise Forbidden(f"{caller.name!r} may not do this: it needs a key with the scope agent")
    return caller


async def _last(socket: WebSocket, message: dict[str, Any]) -> None:
    with suppress(RuntimeError, WebSocketDisconnect):  # Nobody listens any more.
        await socket.send_text(json.dumps(message))


async def _within_limits(parts: State, caller: Caller, guest: Guest, said: str) -> dict[str, Any] | None:
    """Answer a message, which counts as a request of the key."""
    try:
        parts.limits.enter(caller.limit)
    except RateLimited as error:
        return _error(error.message, "CAPACITY_REACHED")
    try:
        return await _reply(guest, said, parts.settings.max_body_bytes)
    finally:
        parts.limits.leave(caller.limit)


async def _reply(guest: Guest, said: str, most_bytes: int) -> dict[str, Any] | None:
    """Return the answer to a message; None where the client takes its leave."""
    if len(said) > most_bytes:
        return _error(f"the message is longer than {most_bytes} characters", "VALIDATION_ERROR")
    try:
        message = json.loads(said)
    except (ValueError, RecursionError) as error:
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
