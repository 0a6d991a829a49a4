"""A guest: one foreign session with an environment, which has one open episode at most.

Responsible for what all protocols share: a task begins an episode (purpose other, its steps recorded, never trained
on), which has a lease and counts against the capacity like every other; the next task and the end of the session close
it. Guests without connection of their own (HTTP) are kept by a name, at most so many, the least recently used leaves.
The protocols and their errors are in the files beside this one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict

from starlette.applications import Starlette

from env_adapters.protocol import Reset
from server.api.state import State
from server.environments.instances import find_environment
from server.environments.open_environments import OpenEnvironment
from server.errors import Conflict, EnvironmentsFull, NotFound
from server.recording.episode import Episode
from upturn.wire import EpisodeOpen, StepResult

KEPT = 10_000
"""Guests that are kept by name; ours."""
HORIZON = 1000
"""Steps of a guest's episode: the guest has its own horizon, this one ends what would never end. Ours."""
CLOSING_S = 10
"""How long a guest waits for a place while the one it has left is being closed; ours."""


class Guest:
    """One session. Its calls must not overlap: hold `lock`."""

    def __init__(self, parts: State, environment: str, owner_hash: str, protocol: str) -> None:
        self.environment, self.owner_hash = environment, owner_hash
        self.lock = asyncio.Lock()
        self.task: str | None = None
        self.instructions = ""
        self.observation = ""
        """The newest one."""
        self.score = 0.0
        """Sum of the episode's rewards so far."""
        self.steps = 0
        self.done = False
        self.episode_id: str | None = None
        self._parts, self._protocol = parts, protocol

    async def begin(self, task: str, seed: int, label: str | None = None) -> None:
        """End the last task's episode, and open one of a task; `label` is the guest's own name for it.

        Raises:
            UpturnError: as opening an episode does.
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
            episode, _ = await self._parts.episodes.open(
                request,
                policy_version=self._parts.pointers.resolve(None, self._parts.engine),
                horizon=HORIZON,
                owner_hash=self.owner_hash,
            )
            self._parts.environments.attach(episode, held)
        except BaseException:
            self._parts.environments.discard(held)
            raise
        self.episode_id, self.task = episode.id, task
        self.instructions = "\n".join(m["content"] for m in reset.messages if m["role"] == "system")
        self.observation = "\n".join(m["content"] for m in reset.messages if m["role"] != "system")
        self.score, self.steps, self.done = 0.0, 0, False
        await episode.opened()

    async def act(self, text: str) -> StepResult:
        """Act by an answer.

        Raises:
            Conflict: no task has begun, or its episode has ended.
            UpturnError: as a step does.
        """
        return self._seen(await self._parts.environments.step(await self._episode(), text))

    async def call(self, tool: str, arguments: dict[str, object]) -> StepResult:
        """Act by one of the environment's tools."""
        return self._seen(await self._parts.environments.call(await self._episode(), tool, arguments))

    async def leave(self, reason: str) -> None:
        """Close the episode, if one is open."""
        episode_id, self.episode_id = self.episode_id, None
        done, self.done = self.done, False
        if episode_id is not None and not done:
            try:
                episode = await self._parts.episodes.get(episode_id)
            except (Conflict, NotFound):  # Its lease was over, or it was erased.
                return
            await self._parts.episodes.end(episode, "closed", reason=reason)

    async def _prepare(self, task: str, seed: int, tries: int) -> tuple[OpenEnvironment, Reset]:
        try:
            return await self._parts.environments.prepare(self.environment, task, seed)
        except EnvironmentsFull:
            if tries <= 1:
                raise
        await asyncio.sleep(1)  # The environment that this guest has left is closing, and still counts.
        return await self._prepare(task, seed, tries - 1)

    async def _episode(self) -> Episode:
        if self.episode_id is None:
            raise Conflict("no task has begun: reset first", code="no_episode")
        return await self._parts.episodes.get(self.episode_id)

    def _seen(self, result: StepResult) -> StepResult:
        self.observation = result.observation
        self.score += result.reward
        self.steps += 1
        self.done = result.terminated or result.truncated
        return result


class Guests:
    """Guests that come back by name."""

    def __init__(self) -> None:
        self._guests: OrderedDict[str, Guest] = OrderedDict()
        self.numbers = itertools.count()
        """For protocols whose names are numbers."""

    async def add(self, name: str, guest: Guest) -> None:
        """Keep a guest; where there are too many the least recently used one leaves."""
        self._guests[name] = guest
        if len(self._guests) > KEPT:
            _, oldest = self._guests.popitem(last=False)
            await oldest.leave("too many sessions: this one was not used for the longest time")

    def find(self, name: str, environment: str, owner_hash: str) -> Guest | None:
        """Return a guest of this environment and key, if there is one of that name."""
        guest = self._guests.get(name)
        if guest is None or (guest.environment, guest.owner_hash) != (environment, owner_hash):
            return None
        self._guests.move_to_end(name)
        return guest

    def remove(self, name: str) -> None:
        """Forget a guest."""
        self._guests.pop(name, None)


def guests_of(app: Starlette) -> Guests:
    """Return the guests of an application."""
    if not hasattr(app.state, "guests"):
        app.state.guests = Guests()
    guests: Guests = app.state.guests
    return guests


async def tasks_of(environment: str, *splits: str) -> list[str]:
    """Return the tasks of some splits, one after the other.

    Raises:
        NotFound: there is no such environment.
    """

    def read() -> list[str]:
        found = find_environment(environment)
        return [task for split in splits for task in found.tasks(split)]

    return await asyncio.to_thread(read)


async def by_seed(environment: str, seed: int) -> tuple[str, int]:
    """Return the task and its seed for somebody who only knows seeds: 0, 1, 2, ... are the training tasks in turn."""
    tasks = await tasks_of(environment, "train")
    return tasks[seed % len(tasks)], seed // len(tasks) % 2**31
