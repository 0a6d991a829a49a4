"""Takes the turns of played episodes: as a policy (with or without tools), as the environment's solver, or at random.

Every answer is recorded as a turn before the environment gets it. An answer that no policy sampled is a demonstration.
An answer of a policy is sampled from a seed of its own: the same for the same environment, task, seed of the play,
repetition and turn, whatever the version, and another one for any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from typing import Any

from env_adapters.protocol import Reset
from server.engines.protocol import Engine, SamplingParams
from server.environments.open_environments import OpenEnvironments
from server.errors import EngineError
from server.recording.episode import Episode
from server.recording.turn_request import TurnRequest
from server.recording.turns import Turns
from server.versions.routing import Pointers
from upturn.messages import Message, result_messages
from upturn.wire import PlayRequest, StepResult

ENGINE_PATIENCE_S = 120.0  # How long a play waits for a restarting engine.


class Players:
    """Takes the turns of played episodes."""

    def __init__(self, engine: Engine, pointers: Pointers, turns: Turns, environments: OpenEnvironments) -> None:
        self._engine = engine
        self._pointers = pointers
        self._turns = turns
        self._environments = environments

    async def play(self, request: PlayRequest, episode: Episode, reset: Reset, seed: str) -> None:
        """Take turns until the episode ends.

        Args:
            request: the play.
            episode: an open episode of it.
            reset: how its environment began.
            seed: names the episode among the environment's: task, seed of the play, and repetition.
        """
        messages: list[Message] = [dict(message) for message in reset.messages]
        environment = episode.environment or request.environment
        tools = (await self._environments.instances.spec(environment)).tools if request.tools else []
        for turn in itertools.count():
            answer = await self._answer(request, episode, messages, tools, f"{environment}/{seed}/{turn}")
            result = await self._act(episode, answer)
            if result.terminated or result.truncated:
                return
            messages += [answer, *result_messages(answer, result.observation)]

    async def _answer(
        self, request: PlayRequest, episode: Episode, messages: list[Message], tools: list[dict[str, Any]], seed: str
    ) -> Message:
        """Record the assistant's next message and return it; `seed` names the turn among all of the environment's."""
        if request.agent != "policy":
            text = (
                await self._environments.oracle(episode)
                if request.agent == "oracle"
                else await self._environments.random(episode, seed)
            )
            await self._turns.demonstrate(episode, messages, text)
            return {"role": "assistant", "content": text}
        await self._wait_for_engine()
        params = SamplingParams(
            max_tokens=request.sampling.max_tokens,
            temperature=request.sampling.temperature,
            seed=sampling_seed(seed),
        )
        version = self._pointers.for_episode(episode, None, self._engine)
        ask = TurnRequest(list(messages), params, tools=tools, parallel_calls=False, whole=True)
        (turn,) = await self._turns.begin(episode, ask, version)
        message = (await turn.answer()).message
        answer = {"role": "assistant", "content": message["content"] or ""}
        return {**answer, "tool_calls": message["tool_calls"]} if message.get("tool_calls") else answer

    async def _act(self, episode: Episode, answer: Message) -> StepResult:
        if not answer.get("tool_calls"):
            return await self._environments.step(episode, answer["content"])
        called = answer["tool_calls"][0]["function"]
        return await self._environments.call(episode, called["name"], called["arguments"])

    async def _wait_for_engine(self) -> None:
        deadline = time.monotonic() + ENGINE_PATIENCE_S
        while not self._engine.available:
            if time.monotonic() > deadline:
                raise EngineError(f"the engine was not available again within {ENGINE_PATIENCE_S:.0f} s")
            await asyncio.sleep(0.5)


def sampling_seed(name: str) -> int:
    """Return the engine's seed for a turn by the turn's name: one of 2^62, which every engine takes."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()) >> 2
