"""How many environments are open, how many may be, and how they have been doing since the server started."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from server.environments.settings import EnvironmentSettings
from server.errors import EnvironmentsFull

RETRY_AFTER_S = 5
"""When to ask again for an environment while all are in use; ours."""


@dataclass(slots=True)
class Health:
    """The counts of one environment."""

    open: int = 0
    """Instances that exist, those that are starting or closing too."""
    started: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Failures by their class."""


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
        """Return the environments that were used."""
        return list(self._of)

    @property
    def open(self) -> int:
        """Instances of all environments."""
        return sum(health.open for health in self._of.values())

    async def enter(self, name: str, patient: bool) -> None:
        """Count one more instance of an environment, where there is room; `patient` waits for it.

        Raises:
            EnvironmentsFull: as many are open as may be.
        """
        health, capacity = self.of(name), self._settings.capacity
        most = min(capacity, self._settings.capacity_of.get(name, capacity))
        while self.open >= capacity or health.open >= most:
            if not patient:
                raise EnvironmentsFull(
                    f"{self.open} environments are open, {health.open} of them {name}; this server allows {capacity}, "
                    f"and {most} of this one",
                    param="environment",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._left.clear()
            await self._left.wait()
        health.open += 1

    def leave(self, name: str) -> None:
        """Count one instance less."""
        self.of(name).open -= 1
        self._left.set()
