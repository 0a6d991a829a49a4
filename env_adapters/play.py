"""Plays episodes in this process, with no server: for people who look at an environment or write one.

Responsible for who answers (the environment's own solver, a random player, a model behind an OpenAI-compatible URL),
for the loop, and for the transcript. Nothing is recorded, and nothing ends an environment that hangs.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from env_adapters.protocol import Environment, Family, Transition

Message = dict[str, Any]


class Player(Protocol):
    """Who answers."""

    def answer(self, environment: Environment, messages: list[Message]) -> Message:
        """Return the assistant's next message."""

    def close(self) -> None:
        """Release what it holds."""


class Oracle:
    """The environment's own solver."""

    def answer(self, environment: Environment, messages: list[Message]) -> Message:
        """Return the solver's answer."""
        return {"role": "assistant", "content": environment.oracle()}

    def close(self) -> None:
        """Hold nothing."""


class RandomPlayer:
    """Somebody who knows which actions are possible and nothing else."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)

    def answer(self, environment: Environment, messages: list[Message]) -> Message:
        """Return a random answer."""
        return {"role": "assistant", "content": environment.random(self._rng)}

    def close(self) -> None:
        """Hold nothing."""


class ChatModel:
    """A model behind an OpenAI-compatible URL."""

    def __init__(
        self, base_url: str, model: str, key: str, tools: list[dict[str, Any]], timeout_s: float = 300.0
    ) -> None:
        import httpx2

        self._http = httpx2.Client(
            base_url=f"{base_url.rstrip('/')}/", timeout=timeout_s, headers={"authorization": f"Bearer {key}"}
        )
        self._body: dict[str, Any] = {"model": model}
        if tools:
            self._body |= {"tools": tools, "parallel_tool_calls": False}

    def answer(self, environment: Environment, messages: list[Message]) -> Message:
        """Ask the model.

        Raises:
            RuntimeError: it refused, with what it said.
        """
        answered = self._http.post("chat/completions", json={**self._body, "messages": messages})
        if not answered.is_success:
            raise RuntimeError(f"{answered.url} answered {answered.status_code}: {answered.text[:500]}")
        message = json.loads(answered.content)["choices"][0]["message"]
        calls = message.get("tool_calls")
        return {"role": "assistant", "content": message.get("content"), **({"tool_calls": calls} if calls else {})}

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


@dataclass(slots=True)
class Played:
    """One played episode."""

    environment: str
    task: str
    seed: int
    reward: float = 0.0
    success: bool = False
    truncated: bool = False
    steps: int = 0
    invalid: int = 0
    """Answers without a valid action."""
    wall_s: float = 0.0
    messages: list[Message] = field(default_factory=list)


def play(family: Family, task: str, seed: int, player: Player, horizon: int, tell: Callable[[str], None]) -> Played:
    """Play one episode; `tell` gets the transcript, one paragraph at a time.

    Raises:
        UnknownTask: there is no such task.
    """
    played, began = Played(family.name, task, seed), time.perf_counter()
    environment = family.make()
    try:
        played.messages = [dict(message) for message in environment.reset(task, seed).messages]
        for message in played.messages:
            tell(f"[{message['role']}] {message['content']}")
        while played.steps < horizon:
            message = player.answer(environment, played.messages)
            played.messages.append(message)
            tell(f"[{played.steps + 1}] > {said(message)}")
            transition = act(family, environment, message)
            played.messages += result_messages(message, transition.observation)
            played.steps += 1
            played.reward += transition.reward
            played.invalid += not transition.valid
            tell(transition.observation)
            if transition.terminated or transition.truncated:
                played.success, played.truncated = bool(transition.success), transition.truncated
                break
        else:
            played.truncated = True
    finally:
        environment.close()
    played.wall_s = time.perf_counter() - began
    end = "success" if played.success else "cut" if played.truncated else "failure"
    tell(f"-- {end}: reward {played.reward:g} in {played.steps} steps, {played.wall_s:.2f} s")
    return played


def said(message: Message) -> str:
    """Return an assistant's message as one text."""
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls", [])]
    return "\n".join([*filter(None, [message.get("content")]), *calls])


def act(family: Family, environment: Environment, message: Message) -> Transition:
    """Act on an assistant's message: its first tool call, else its text."""
    calls = message.get("tool_calls", [])
    if not calls:
        return environment.step(message.get("content") or "")
    try:
        text = text_of_call(family, calls[0]["function"]["name"], calls[0]["function"]["arguments"])
    except ValueError as error:
        return Transition(str(error), 0.0, False, valid=False)
    return environment.step(text)


def text_of_call(family: Family, name: str, arguments: str | dict[str, Any]) -> str:
    """Return a tool call as the answer that `step` understands; arguments are an object, or its JSON.

    Raises:
        ValueError: there is no such tool, or its arguments do not fit.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise ValueError(f"the arguments of {name} are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {name} are not an object")
    return family.text_of(name, arguments)


def result_messages(message: Message, observation: str) -> list[Message]:
    """Return what an assistant's message gets for an answer: a result for each call, else a user's message."""
    calls = message.get("tool_calls", [])
    if not calls:
        return [{"role": "user", "content": observation}]
    first, *others = ({"role": "tool", "tool_call_id": call["id"], "content": observation} for call in calls)
    return [first, *({**other, "content": "Not done: one call at a time."} for other in others)]
