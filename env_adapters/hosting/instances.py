"""An environment instance for an event loop: sequential calls with a time limit and plain results.

The interface is the same for an environment in the loop (`Inline`), in a thread (`Threaded`), or in a host process
(`host.py` is the host's side, which uses `Threaded` too). Nothing here depends on episodes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from env_adapters.hosting.workers import EnvironmentTimeout, Workers
from env_adapters.protocol import LARGEST_REWARD, Environment, EnvironmentFailure, EnvironmentSpec, Reset, Transition

T = TypeVar("T")
log = logging.getLogger("env_adapters.hosting.instances")
MAKE_LIMIT_S = 120.0
"""Time limit for making an instance, which may start Java or a browser first; default chosen by this project."""


class Instance(Protocol):
    """An asynchronous environment. Every call raises the environment's exception or an `EnvironmentFailure`."""

    async def reset(self, task: str, seed: int) -> Reset:
        """Begin a task."""

    async def step(self, text: str) -> Transition:
        """Act on a model's whole answer."""

    async def oracle(self) -> str:
        """Return the solver's next answer."""

    async def random(self, seed: str) -> str:
        """Return a random player's answer, determined by the seed."""

    async def close(self) -> None:
        """Release it after the current call has ended. Calling it twice is allowed."""


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
        """Return the solver's next answer."""
        return self._environment.oracle()

    async def random(self, seed: str) -> str:
        """Return a random answer."""
        return self._environment.random(random.Random(seed))

    async def close(self) -> None:
        """Release it."""
        self._environment.close()


class Threaded:
    """An environment whose calls block. After a timeout it is dead and its methods are never called again."""

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
        """Return the solver's next answer."""
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
        """Make a call after the current one, and run it to completion even if the caller is cancelled."""
        return await asyncio.shield(asyncio.ensure_future(self._alone(do)))

    async def _alone(self, do: Callable[[], T]) -> T:
        async with self._busy:
            if self._dead:
                raise EnvironmentTimeout("the environment is closed, or an earlier call did not answer in time")
            try:
                return await self._workers.call(do, self._limit_s)
            except EnvironmentTimeout as error:
                self._dead = True
                if error.ended:
                    await self._close_late()
                raise

    async def _close_late(self) -> None:
        """Close an environment after a timeout. Errors are only logged: the caller gets the timeout."""
        try:
            await self._workers.call(self._environment.close, self._limit_s)
        except Exception as error:
            log.warning("an environment did not close after a timeout: %s: %s", type(error).__name__, error)


def plain(transition: Transition) -> Transition:
    """Return a transition of plain, storable values.

    Raises:
        EnvironmentFailure: the reward is not a number, not finite, or too large.
    """
    return replace(
        transition,
        observation=plain_text(transition.observation),
        reward=checked_reward(transition.reward),
        terminated=bool(transition.terminated),
        truncated=bool(transition.truncated),
        success=None if transition.success is None else bool(transition.success),
        valid=bool(transition.valid),
        info=plain_info(transition.info),
    )


def checked_reward(reward: Any) -> float:
    """Return a reward as a float.

    Raises:
        EnvironmentFailure: it is not a number, not finite, or too large.
    """
    try:
        number = float(reward)
    except (TypeError, ValueError, OverflowError) as error:
        raise EnvironmentFailure(f"the reward is not a number: {str(reward)[:100]!r}") from error
    if not abs(number) <= LARGEST_REWARD:  # NaN is not either.
        raise EnvironmentFailure(f"the reward {number} is not within {LARGEST_REWARD:g} of 0")
    return number


def plain_reset(reset: Reset) -> Reset:
    """Return a reset of plain, storable values."""
    return Reset(
        [{"role": message["role"], "content": plain_text(message["content"])} for message in reset.messages],
        plain_info(reset.info),
    )


def plain_text(text: str) -> str:
    """Replace characters that databases and JSON responses cannot carry: NUL and lone surrogates."""
    if text.isascii():
        return text.replace("\0", "\ufffd") if "\0" in text else text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def plain_info(info: dict[str, Any]) -> dict[str, Any]:
    """Return `info` with JSON values; anything that JSON cannot represent becomes text."""
    if not info:
        return {}
    made: dict[str, Any] = json.loads(
        plain_text(json.dumps(info, default=_plain_value, ensure_ascii=False)), parse_constant=str
    )
    return made


def _plain_value(value: Any) -> Any:
    """Return the Python value of an array or numpy number, and any other value as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
