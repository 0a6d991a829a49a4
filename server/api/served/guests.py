"""Guests: clients of foreign protocols, each with at most one open episode.

All protocols share this module. A task opens an episode (never trained on, its steps recorded) that has a lease and
counts against the capacity like any other; the next task and the guest's departure close it. Guests of protocols
without connections (HTTP) are kept by name, up to a limit; beyond it the least recently used guest is dismissed. The
protocols and their errors are in the modules next to this one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Annotated

from env_adapters.protocol import EnvironmentSpec, Reset
from server.api.services import service
from server.engines.protocol import Engine
from server.environments.instances import find_environment
from server.environments.open_environments import OpenEnvironment, OpenEnvironments
from server.environments.steps import Stepped
from server.errors import Conflict, EnvironmentsFull, NotFound
from server.recording.episode import Episode
from server.recording.episodes import Episodes
from server.versions.routing import Pointers
from upturn.wire import EpisodeOpen

log = logging.getLogger("upturn.environments")
KEPT = 10_000
"""Guests kept by name. Default chosen by this project."""
HORIZON = 1000
"""Steps of a guest's episode. The guest has its own horizon; this one bounds endless episodes. Chosen by this
project."""
CLOSING_S = 10
"""Seconds that a guest waits for capacity while its previous environment closes. Chosen by this project."""


@dataclass(frozen=True, slots=True)
class Venue:
    """The services that a guest plays with."""

    engine: Engine
    pointers: Pointers
    episodes: Episodes
    environments: OpenEnvironments


class Guest:
    """One guest. Its calls must not overlap: hold `lock`."""

    def __init__(self, venue: Venue, environment: str, owner_hash: str, protocol: str) -> None:
        self.environment, self.owner_hash = environment, owner_hash
        self.lock = asyncio.Lock()
        self.task: str | None = None
        self.instructions = ""
        self.observation = ""
        """The latest observation."""
        self.score = 0.0
        """Sum of the episode's rewards so far."""
        self.steps = 0
        self.done = False
        self.episode_id: str | None = None
        self._venue, self._protocol = venue, protocol

    async def begin(self, task: str, seed: int, label: str | None = None) -> None:
        """Close the previous task's episode and open one for a task.

        Args:
            task: name of the task.
            seed: seed of the environment.
            label: the guest's own name for the episode.

        Raises:
            UpturnError: the episode could not be opened.
        """
        had = self.episode_id is not None
        await self.leave("the next task began")
        held, reset = await self._prepare(task, seed, tries=CLOSING_S if had else 1)
        try:
            request = EpisodeOpen(
                environment=self.environment,
                task=task,
                seed=seed,
                trainable=False,
                metadata={"protocol": self._protocol, **({"label": label} if label else {})},
            )
            episode, _ = await self._venue.episodes.open(
                request,
                policy_version=self._venue.pointers.resolve(None, self._venue.engine),
                horizon=HORIZON,
                owner_hash=self.owner_hash,
            )
            self._venue.environments.attach(episode, held)
        except BaseException:
            self._venue.environments.discard(held)
            raise
        self.episode_id, self.task = episode.id, task
        self.instructions = "\n".join(m["content"] for m in reset.messages if m["role"] == "system")
        self.observation = "\n".join(m["content"] for m in reset.messages if m["role"] != "system")
        self.score, self.steps, self.done = 0.0, 0, False
        await episode.opened()

    async def act(self, text: str) -> Stepped:
        """Take a step with the player's whole answer.

        Raises:
            Conflict: no task has begun, or its episode has ended.
            UpturnError: the step failed.
        """
        return self._observed(await self._venue.environments.step(await self._episode(), text))

    async def call(self, tool: str, arguments: dict[str, object]) -> Stepped:
        """Take a step with one of the environment's tools. Raises the same errors as `act`."""
        return self._observed(await self._venue.environments.call(await self._episode(), tool, arguments))

    async def leave(self, reason: str) -> None:
        """Close the episode, if one is open."""
        episode_id, self.episode_id = self.episode_id, None
        done, self.done = self.done, False
        if episode_id is not None and not done:
            try:
                episode = await self._venue.episodes.get(episode_id)
            except (Conflict, NotFound):  # Its lease expired, or it was erased.
                return
            await self._venue.episodes.end(episode, "closed", reason=reason)

    async def _prepare(self, task: str, seed: int, tries: int) -> tuple[OpenEnvironment, Reset]:
        try:
            return await self._venue.environments.prepare(self.environment, task, seed)
        except EnvironmentsFull:
            if tries <= 1:
                raise
        await asyncio.sleep(1)  # The guest's previous environment is closing and still counts.
        return await self._prepare(task, seed, tries - 1)

    async def _episode(self) -> Episode:
        if self.episode_id is None:
            raise Conflict("no task has begun: reset first", code="no_episode")
        return await self._venue.episodes.get(self.episode_id)

    def _observed(self, result: Stepped) -> Stepped:
        self.observation = result.observation
        self.score += result.reward
        self.steps += 1
        self.done = result.terminated or result.truncated
        return result


class Guests:
    """The service behind all protocols: makes guests, and keeps those without a connection by name."""

    def __init__(self, venue: Venue, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self.numbers = itertools.count()
        """For protocols whose names are numbers."""
        self._venue = venue
        self._guests: OrderedDict[str, Guest] = OrderedDict()
        self._counts: Counter[str] = Counter()
        """Kept guests by environment."""

    async def environment(self, name: str) -> EnvironmentSpec:
        """Return an environment.

        Raises:
            NotFound: there is no such environment.
        """
        return await self._venue.environments.instances.spec(name)

    def new(self, environment: str, owner_hash: str, protocol: str) -> Guest:
        """Return a guest of an environment; no task has begun yet."""
        return Guest(self._venue, environment, owner_hash, protocol)

    async def add(self, name: str, guest: Guest) -> None:
        """Keep a guest under a name; beyond the limit, dismiss the least recently used guest."""
        self._guests[name] = guest
        self._counts[guest.environment] += 1
        if len(self._guests) > KEPT:
            _, oldest = self._guests.popitem(last=False)
            self._counts[oldest.environment] -= 1
            await oldest.leave("too many sessions: this one was the least recently used")

    def find(self, name: str, environment: str, owner_hash: str) -> Guest | None:
        """Return the guest of that name, if it belongs to this environment and key."""
        guest = self._guests.get(name)
        if guest is None or (guest.environment, guest.owner_hash) != (environment, owner_hash):
            return None
        self._guests.move_to_end(name)
        return guest

    def remove(self, name: str) -> None:
        """Forget a guest."""
        if (guest := self._guests.pop(name, None)) is not None:
            self._counts[guest.environment] -= 1

    def too_many(self, environment: str) -> str | None:
        """Return what to do if the kept guests of an environment cannot all play at once, or None if they can.

        The log gets it once, when the capacity is exceeded.
        """
        count, most = self._counts[environment], self._venue.environments.health.most(environment)
        if count <= most:
            return None
        warning = (
            f"more than {most} clients of {environment} exist, but a reset beyond {most} open episodes is refused: "
            "set environments.capacity (or capacity_of) to at least the trainer's batch x n"
        )
        if count == most + 1:
            log.warning("%s", warning)
        return warning


GuestsOf = Annotated[Guests, service(Guests)]


async def tasks_of(environment: str, *splits: str) -> list[str]:
    """Return the tasks of several splits, one split after the other.

    Raises:
        NotFound: there is no such environment.
    """

    def read() -> list[str]:
        spec = find_environment(environment)
        return [task for split in splits for task in spec.tasks(split)]

    return await asyncio.to_thread(read)


async def by_seed(environment: str, seed: int) -> tuple[str, int]:
    """Return (task, seed) for a client that only knows seeds: 0, 1, 2, ... are the training tasks in turn."""
    tasks = await tasks_of(environment, "train")
    return tasks[seed % len(tasks)], seed // len(tasks) % 2**31
