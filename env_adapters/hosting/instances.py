"""One environment instance as an event loop sees it: its calls one after another, in time, and with plain results.

The same wherever the environment runs: in the loop (`Inline`), in a thread (`Threaded`), or in a host process, whose
side of it is `host.py` and which uses `Threaded` too. Nothing here knows of episodes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from env_adapters.hosting.workers import EnvironmentTimeout, Workers
from env_adapters.protocol import Environment, EnvironmentFailure, EnvironmentSpec, Reset, Transition

T = TypeVar("T")
log = logging.getLogger("env_adapters.hosting.instances")
MAKE_LIMIT_S = 120.0
"""How long making an instance may take: it may start a Java or a browser first. Ours."""


class Instance(Protocol):
    """An environment; every call raises what the environment raised, or a class of `EnvironmentFailure`."""

    async def reset(self, task: str, seed: int) -> Reset:
        """Begin a task."""

    async def step(self, text: str) -> Transition:
        """Act on a model's whole answer."""

    async def oracle(self) -> str:
        """Return the solver's answer."""

    async def random(self, seed: str) -> str:
        """Return the answer of somebody who knows the possible actions only; the seed decides which."""

    async def close(self) -> None:
        """Release it, once its present call has ended. Calling it twice is allowed."""


async def open_instance(spec: EnvironmentSpec, workers: Workers, *, inline: bool = False) -> Instance:
    """Make an instance in this process, in the event loop (`inline`) or in a thread.

    Raises:
        EnvironmentMissing: a package or program that it needs is not installed.
    """
    if inline:
        return Inline(spec.make())
    return Threaded(await workers.call(spec.make, MAKE_LIMIT_S), workers, spec.step_timeout_s)


class Inline:
    """An environment whose calls take microseconds."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    async def reset(self, task: str, seed: int) -> Reset:
        """Begin a task."""
        return plain_reset(self._environment.reset(task, seed))

    async def step(self, text: str) -> Transition:
        """Act."""
        return plain(self._environment.step(text))

    async def oracle(self) -> str:
        """Return the solver's answer."""
        return self._environment.oracle()

    async def random(self, seed: str) -> str:
        """Return a random answer."""
        return self._environment.random(random.Random(seed))

    async def close(self) -> None:
        """Release it."""
        self._environment.close()


class Threaded:
    """An environment whose calls block. After one that is late it is dead: nothing is called any more."""

    def __init__(self, environment: Environment, workers: Workers, limit_s: float) -> None:
        self._environment = environment
        self._workers = workers
        self._limit_s = limit_s
        self._busy = asyncio.Lock()
        self._dead = False

    async def reset(self, task: str, seed: int) -> Reset:
        """Begin a task."""
        return plain_reset(await self._call(lambda: self._environment.reset(task, seed)))

    async def step(self, text: str) -> Transition:
        """Act."""
        return plain(await self._call(lambda: self._environment.step(text)))

    async def oracle(self) -> str:
        """Return the solver's answer."""
        return await self._call(self._environment.oracle)

    async def random(self, seed: str) -> str:
        """Return a random answer."""
        return await self._call(lambda: self._environment.random(random.Random(seed)))

    async def close(self) -> None:
        """Release it."""
        if not self._dead:
            await self._call(self._environment.close)
            self._dead = True

    async def _call(self, do: Callable[[], T]) -> T:
        """Do a call after the present one, to its end even where nobody waits for it any more."""
        return await asyncio.shield(asyncio.ensure_future(self._alone(do)))

    async def _alone(self, do: Callable[[], T]) -> T:
        async with self._busy:
            if self._dead:
                raise EnvironmentTimeout("it is closed, or was given up since an earlier call did not answer in time")
            try:
                return await self._workers.call(do, self._limit_s)
            except EnvironmentTimeout as error:
                self._dead = True
                if error.ended:
                    await self._close_late()
                raise

    async def _close_late(self) -> None:
        """Release what was given up; that it was late is what counts, not what it says to this."""
        try:
            await self._workers.call(self._environment.close, self._limit_s)
        except Exception as error:
            log.warning("an environment that was late does not close: %s: %s", type(error).__name__, error)


def plain(transition: Transition) -> Transition:
    """Return a transition of plain values that can be stored anywhere.

    Raises:
        EnvironmentFailure: the reward is no number.
    """
    reward = float(transition.reward)
    if not math.isfinite(reward):
        raise EnvironmentFailure(f"the reward is {reward}")
    return replace(
        transition,
        observation=plain_text(transition.observation),
        reward=reward,
        terminated=bool(transition.terminated),
        truncated=bool(transition.truncated),
        success=None if transition.success is None else bool(transition.success),
        valid=bool(transition.valid),
        info=plain_info(transition.info),
    )


def plain_reset(reset: Reset) -> Reset:
    """Return what an agent sees first, in values that can be stored anywhere."""
    return Reset(
        [{"role": message["role"], "content": plain_text(message["content"])} for message in reset.messages],
        plain_info(reset.info),
    )


def plain_text(text: str) -> str:
    """Return a text without what no database and no answer can carry: NUL and halves of surrogate pairs."""
    if text.isascii():
        return text.replace("\0", "\ufffd") if "\0" in text else text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def plain_info(info: dict[str, Any]) -> dict[str, Any]:
    """Return it as JSON has it; what JSON cannot say becomes text."""
    if not info:
        return {}
    made: dict[str, Any] = json.loads(
        plain_text(json.dumps(info, default=_plain_value, ensure_ascii=False)), parse_constant=str
    )
    return made


def _plain_value(value: Any) -> Any:
    """Return an array's or a numpy number's Python value, else its text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
