"""Plays episodes in this process without a server, for people who inspect an environment or write one.

Responsible for the players (the environment's own solver, a random player, a model behind an OpenAI-compatible URL),
the loop and the transcript. Nothing is recorded, and nothing interrupts an environment that hangs.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from env_adapters.calls import text_of_call
from env_adapters.protocol import Environment, EnvironmentSpec, Transition
from upturn.messages import Message, result_messages


class Player(Protocol):
    """Takes the assistant's part of an episode."""

    def answer(self, environment: Environment, messages: list[Message]) -> Message:
        """Return the assistant's next message."""

    def close(self) -> None:
        """Release its resources."""


class Oracle:
    """The environment's own solver."""

    def answer(self, environment: Environment, messages: list[Message]) -> Message:
        """Return the solver's answer."""
        return {"role": "assistant", "content": environment.oracle()}

    def close(self) -> None:
        """Do nothing: it holds no resources."""


class RandomPlayer:
    """A player who knows which actions are possible and nothing else."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(seed)

    def answer(self, environment: Environment, messages: list[Message]) -> Message:
        """Return a random answer."""
        return {"role": "assistant", "content": environment.random(self._rng)}

    def close(self) -> None:
        """Do nothing: it holds no resources."""


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
            RuntimeError: the server answered with an error, which the message quotes.
        """
        response = self._http.post("chat/completions", json={**self._body, "messages": messages})
        if not response.is_success:
            raise RuntimeError(f"{response.url} answered {response.status_code}: {response.text[:500]}")
        message = json.loads(response.content)["choices"][0]["message"]
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


def play(
    spec: EnvironmentSpec, task: str, seed: int, player: Player, horizon: int, tell: Callable[[str], None]
) -> Played:
    """Play one episode.

    Args:
        spec: the environment.
        task: one of its tasks.
        seed: seed of the reset.
        player: answers in the assistant's place.
        horizon: maximum number of steps.
        tell: receives the transcript, one paragraph at a time.

    Raises:
        UnknownTask: the environment has no such task.
    """
    played, began = Played(spec.name, task, seed), time.perf_counter()
    environment = spec.make()
    try:
        played.messages = [dict(message) for message in environment.reset(task, seed).messages]
        for message in played.messages:
            tell(f"[{message['role']}] {message['content']}")
        while played.steps < horizon:
            message = player.answer(environment, played.messages)
            played.messages.append(message)
            tell(f"[{played.steps + 1}] > {text_of_message(message)}")
            transition = act(spec, environment, message)
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


def text_of_message(message: Message) -> str:
    """Return an assistant's message, with its tool calls, as one text."""
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls", [])]
    return "\n".join([*filter(None, [message.get("content")]), *calls])


def act(spec: EnvironmentSpec, environment: Environment, message: Message) -> Transition:
    """Execute an assistant's message: its first tool call, or its text if it has no call."""
    calls = message.get("tool_calls", [])
    if not calls:
        return environment.step(message.get("content") or "")
    try:
        text = text_of_call(spec, calls[0]["function"]["name"], calls[0]["function"]["arguments"])
    except ValueError as error:
        return Transition(str(error), 0.0, False, valid=False)
    return environment.step(text)
