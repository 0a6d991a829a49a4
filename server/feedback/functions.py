"""Reward functions: the operator's Python functions, each called in a thread with a time limit.

A function takes an `EpisodeView` and returns a number, a dict of numbers by turn, or None if it has no opinion.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

from env_adapters.hosting.workers import EnvironmentTimeout, Workers
from server.feedback.verdict import Verdict, read_values
from server.rewards.settings import FunctionSettings
from server.section import SettingsError
from upturn.wire import EpisodeView


class RewardFunction:
    """A scorer that calls a Python function."""

    kind: Literal["function"] = "function"

    def __init__(self, name: str, settings: FunctionSettings) -> None:
        self.name = name
        self.concurrency = settings.concurrency
        self._limit_s = settings.time_limit_s
        self._function = load(name, settings.function)
        self._workers = Workers()

    @property
    def stuck(self) -> int:
        """Calls that could not be stopped and are still running."""
        return self._workers.stuck

    async def score(self, episode: EpisodeView) -> Verdict:
        """Call the function.

        Raises:
            TimeoutError: it exceeded its time limit.
            BadScore: it returned something that is not a score.
        """
        try:
            returned = await self._workers.call(lambda: self._function(episode), self._limit_s)
        except EnvironmentTimeout as error:
            raise TimeoutError(f"the function exceeded its limit of {self._limit_s:g} s") from error
        return Verdict(read_values(returned, {turn.index for turn in episode.turns}))

    async def close(self) -> None:
        """Stop the idle threads."""
        self._workers.close()


def load(name: str, spec: str) -> Callable[[EpisodeView], Any]:
    """Import a function named as `package.module:function`.

    Raises:
        SettingsError: the import failed, or the name is not a plain function.
    """
    module, _, attribute = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # A module may raise anything.
        raise SettingsError(f"rewards.functions.{name}: {spec}: {type(error).__name__}: {error}") from error
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise SettingsError(f"rewards.functions.{name}: {spec} is not a plain function")
    return function  # type: ignore[no-any-return]
