"""Counts open, started and failed environments since the server started, and enforces the capacity."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from server.environments.settings import EnvironmentSettings
from server.errors import EnvironmentsFull

RETRY_AFTER_S = 5
"""`Retry-After` while the capacity is used up; default chosen by this project."""


@dataclass(slots=True)
class Health:
    """The counts of one environment."""

    open: int = 0
    """Existing instances, including those that are starting or closing."""
    started: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Failures by error class."""


class Healths:
    """The counts of all environments, by name."""

    def __init__(self, settings: EnvironmentSettings) -> None:
        self._settings = settings
        self._of: dict[str, Health] = {}
        self._left = asyncio.Event()

    def of(self, name: str) -> Health:
        """Return an environment's counts."""
        return self._of.setdefault(name, Health())

    def names(self) -> list[str]:
        """Return the environments that have been used."""
        return list(self._of)

    @property
    def open(self) -> int:
        """Number of instances of all environments."""
        return sum(health.open for health in self._of.values())

    def most(self, name: str) -> int:
        """Return how many instances of an environment may be open at once."""
        capacity = self._settings.capacity
        return min(capacity, self._settings.capacity_of.get(name, capacity))

    async def enter(self, name: str, patient: bool) -> None:
        """Count a new instance of an environment, if the capacity allows it; `patient` waits for free capacity.

        Raises:
            EnvironmentsFull: the capacity is used up and `patient` is off.
        """
        health, capacity, most = self.of(name), self._settings.capacity, self.most(name)
        while self.open >= capacity or health.open >= most:
            if not patient:
                raise EnvironmentsFull(
                    f"{self.open} environments are open, {health.open} of them {name}; this server allows {capacity} "
                    f"in total and {most} of {name}: set environments.capacity (or capacity_of) to at least the "
                    "episodes that are open at once, for a trainer its batch x n",
                    param="environment",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._left.clear()
            await self._left.wait()
        health.open += 1

    def leave(self, name: str) -> None:
        """Count an instance as closed."""
        self.of(name).open -= 1
        self._left.set()
