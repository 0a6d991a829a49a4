"""The environments of open episodes: opening, steps, leases, and ending an episode together with its environment.

A step is durable before it is answered. `instances.py` decides where an environment runs, `health.py` how many may be
open, and `steps.py` writes the steps.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from env_adapters.calls import text_of_call
from env_adapters.hosting.instances import Instance, plain_text
from env_adapters.hosting.messages import class_of, text_of
from env_adapters.protocol import EnvironmentMissing, Reset, Transition, UnknownTask
from server.environments.health import Healths
from server.environments.instances import Instances
from server.environments.settings import EnvironmentSettings
from server.environments.steps import Stepped, raw_score_of, step_write
from server.errors import (
    BadRequest,
    Conflict,
    EnvironmentFailed,
    HorizonReached,
    NotFound,
    Unavailable,
    UpturnError,
)
from server.recording.episode import Episode
from server.recording.episodes import Episodes
from server.store.writer import Writer

T = TypeVar("T")
log = logging.getLogger("upturn.environments")
REAP_S = 15.0
"""Maximum interval between checks of the leases; default chosen by this project."""
STOP_S = 10.0  # Environments that do not close in time end with their process.


@dataclass(slots=True, eq=False)
class OpenEnvironment:
    """An environment and, once it is open, the episode that it belongs to."""

    name: str
    instance: Instance
    used_at: float
    leased: bool = True
    episode: Episode | None = None
    turns: int = 0
    """Turns of its episode at the last check of the lease."""


class OpenEnvironments:
    """The environments of all open episodes."""

    def __init__(
        self,
        writer: Writer,
        episodes: Episodes,
        settings: EnvironmentSettings,
        log_path: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._episodes = episodes
        self._settings = settings
        self._clock = clock
        self.instances = Instances(settings, log_path)
        self.health = Healths(settings)
        self._all: set[OpenEnvironment] = set()
        self._of: dict[str, OpenEnvironment] = {}
        """Environments by episode id."""
        self._unwritten: dict[str, tuple[str, dict[str, Any]]] = {}
        """Episode ends not yet written because the database was unavailable, by episode id."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reaper: asyncio.Task[None] | None = None
        episodes.when_ended.append(self.release)

    # ------------------------------------------------------------------------------------------ begin and end

    async def prepare(
        self, name: str, task: str | None, seed: int, *, patient: bool = False
    ) -> tuple[OpenEnvironment, Reset]:
        """Make and reset an environment, before its episode is opened.

        The caller must pass it on to an episode (`attach`) or return it (`discard`).

        Args:
            name: the environment.
            task: one of its tasks.
            seed: seed of the reset.
            patient: wait while the capacity is used up.

        Raises:
            NotFound: the environment or task does not exist.
            BadRequest: no task is given, or the environment is not installed.
            EnvironmentsFull: the capacity is used up and `patient` is off.
            EnvironmentFailed: the environment did not start.
        """
        if task is None:
            raise BadRequest("an episode of an environment needs a task", param="task")
        await self.instances.spec(name)
        await self.health.enter(name, patient)
        if self._reaper is None:
            self._reaper = asyncio.create_task(self._reap_periodically())
        beginning = self._keep(self._begin(name, task, seed))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:  # The caller is gone: close the environment once it has started.
            self._keep(self._discard_begun(beginning))
            raise

    def attach(self, episode: Episode, environment: OpenEnvironment, *, leased: bool = True) -> None:
        """Give an open episode its environment."""
        environment.episode, environment.leased, environment.used_at = episode, leased, self._clock()
        self._of[episode.id] = environment

    def discard(self, environment: OpenEnvironment) -> None:
        """Close an environment."""
        if environment in self._all:
            self._all.discard(environment)
            self._keep(self._close(environment))

    def release(self, episode_id: str) -> None:
        """Close an episode's environment, if it has one."""
        environment = self._of.pop(episode_id, None)
        if environment is not None:
            self.discard(environment)

    async def close(self) -> None:
        """Close all environments, then stop the hosts and threads that they run in."""
        if self._reaper is not None:
            self._reaper.cancel()
        for environment in list(self._all):
            self.discard(environment)
        self._of.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        await self.instances.close()

    # --------------------------------------------------------------------------------------------------- acting

    async def step(self, episode: Episode, text: str) -> Stepped:
        """Act, record the step, and end the episode if the environment or the horizon ends it.

        Raises:
            Conflict: the episode has ended or has no environment.
            EnvironmentFailed: the environment failed, which ended the episode as an error.
        """
        return await self._act(episode, plain_text(text))

    async def call(self, episode: Episode, name: str, arguments: str | dict[str, Any]) -> Stepped:
        """Act by a tool call. An invalid call is a step too; its observation gives the reason."""
        if episode.environment is None:
            raise Conflict(f"episode {episode.id} has no environment", code="no_environment")
        try:
            text = text_of_call(await self.instances.spec(episode.environment), name, arguments)
        except ValueError as error:
            shown = arguments if isinstance(arguments, str) else json.dumps(arguments)
            return await self._act(
                episode, plain_text(f"{name}({shown})"), Transition(plain_text(str(error)), 0.0, False, valid=False)
            )
        return await self.step(episode, text)

    async def oracle(self, episode: Episode) -> str:
        """Return the next answer of the environment's own solver.

        Raises:
            BadRequest: the environment has no solver.
            EnvironmentFailed: the environment failed, which ended the episode as an error.
        """
        return await self._suggested(episode, "oracle", lambda instance: instance.oracle())

    async def random(self, episode: Episode, seed: str) -> str:
        """Return the answer of a random player. Raises the same errors as `oracle`."""
        return await self._suggested(episode, "random", lambda instance: instance.random(seed))

    # --------------------------------------------------------------------------------------------------- leases

    async def reap(self) -> None:
        """Close episodes whose lease has expired, and retry the episode ends that could not be written."""
        for episode_id, (status, why) in list(self._unwritten.items()):
            with suppress(NotFound, Conflict):  # The episode was erased, or something else has ended it.
                await self._episodes.end(await self._episodes.get(episode_id), status, **why)
            self._unwritten.pop(episode_id, None)
        for environment in list(self._all):
            if not self._expired(environment):
                continue
            if environment.episode is None:
                self.discard(environment)
            else:
                await self._expire(environment.episode)

    def _expired(self, environment: OpenEnvironment) -> bool:
        episode, now = environment.episode, self._clock()
        if episode is not None and (
            episode.turns != environment.turns or episode.answering or episode.stepping.locked()
        ):
            environment.turns, environment.used_at = episode.turns, now
        return environment.leased and now - environment.used_at > self._settings.lease_s

    async def _expire(self, episode: Episode) -> None:
        async with episode.stepping:
            if episode.ended is None:
                log.info("the lease of episode %s has expired", episode.id)
                await self._episodes.never_train(episode)  # It has no verdict.
                await self._end(episode, "closed", reason="lease expired")

    async def _reap_periodically(self) -> None:
        while True:
            await asyncio.sleep(min(REAP_S, self._settings.lease_s / 4))
            try:
                await self.reap()
            except UpturnError as error:
                log.warning("could not check the leases: %s", error)
            except Exception:
                log.exception("could not check the leases")

    # ------------------------------------------------------------------------------------------------- the rest

    async def _begin(self, name: str, task: str, seed: int) -> tuple[OpenEnvironment, Reset]:
        environment = None
        try:
            environment = OpenEnvironment(name, await self.instances.make(name), self._clock())
            reset = await environment.instance.reset(task, seed)
        except Exception as error:
            if environment is None:
                self.health.leave(name)
            else:
                await self._close(environment)
            if isinstance(error, UnknownTask):
                raise NotFound(text_of(error), param="task", code="task_not_found") from error
            if isinstance(error, EnvironmentMissing):
                raise BadRequest(
                    f"{name} is not installed here: {error}", param="environment", code="environment_not_installed"
                ) from error
            self.health.of(name).errors[class_of(error)] += 1
            raise EnvironmentFailed(f"{name} failed to start: {class_of(error)}: {text_of(error)}") from error
        self.health.of(name).started += 1
        self._all.add(environment)
        return environment, reset

    async def _discard_begun(self, beginning: asyncio.Task[tuple[OpenEnvironment, Reset]]) -> None:
        with suppress(UpturnError):  # It did not start.
            self.discard((await beginning)[0])

    async def _close(self, environment: OpenEnvironment) -> None:
        try:
            await environment.instance.close()
        except Exception as error:
            log.warning("%s did not close: %s: %s", environment.name, class_of(error), error)
        finally:
            self.health.leave(environment.name)

    async def _act(self, episode: Episode, text: str, known: Transition | None = None) -> Stepped:
        """Take a step: ask the environment, unless the transition is `known` without it."""
        async with episode.stepping:
            episode.must_be_open()
            environment = self._of.get(episode.id)
            if environment is None:
                if episode.environment is not None:
                    lost = "error", {"error_class": "EnvironmentLost", "reason": "its environment is gone"}
                    status, why = self._unwritten.get(episode.id, lost)
                    await self._end(episode, status, **why)
                raise Conflict(f"episode {episode.id} has no environment", code="no_environment")
            if episode.steps >= episode.horizon:
                raise HorizonReached(f"episode {episode.id} has used all of its {episode.horizon} turns")
            transition = (
                known if known is not None else await self._ask(episode, environment, environment.instance.step(text))
            )
            truncated = not transition.terminated and (transition.truncated or episode.steps + 1 >= episode.horizon)
            try:
                await self._writer.write(step_write(episode, text, transition, truncated))
            except Exception as error:  # The environment is one step ahead of its record, so a retry would differ.
                await self._end(episode, "error", error_class=type(error).__name__, reason="a step was not recorded")
                raise
            episode.steps += 1
            environment.used_at = self._clock()
            success = None
            if transition.terminated or truncated:
                success = bool(transition.success)
                await self._end(episode, "terminated" if transition.terminated else "truncated", success=success)
        return Stepped(
            observation=transition.observation,
            reward=transition.reward,
            terminated=transition.terminated,
            truncated=truncated,
            turns_left=episode.turns_left,
            valid=transition.valid,
            success=success,
            raw_score=raw_score_of(transition),
        )

    async def _suggested(self, episode: Episode, agent: str, ask: Callable[[Instance], Awaitable[str]]) -> str:
        environment = self._of.get(episode.id)
        if environment is None:
            raise Conflict(f"episode {episode.id} has no environment", code="no_environment")

        async def suggested() -> str:
            try:
                return await ask(environment.instance)
            except NotImplementedError as error:
                raise BadRequest(f"{environment.name} has no {agent}", param="agent", code=f"no_{agent}") from error

        return await self._ask(episode, environment, suggested())

    async def _ask(self, episode: Episode, environment: OpenEnvironment, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except UpturnError:
            raise
        except Exception as error:
            episode.must_be_open()  # If the episode has ended in the meantime, that closed the environment.
            self.health.of(environment.name).errors[class_of(error)] += 1
            await self._end(episode, "error", error_class=class_of(error), reason=text_of(error))
            raise EnvironmentFailed(f"{environment.name} failed: {class_of(error)}: {text_of(error)}") from error

    async def _end(self, episode: Episode, status: str, **why: Any) -> None:
        """End an episode; if the database is unavailable, close its environment and record the end later."""
        try:
            await self._episodes.end(episode, status, **why)
        except Unavailable:
            self._unwritten.setdefault(episode.id, (status, why))
            self.release(episode.id)
            log.warning("the end of episode %s (%s) will be written later", episode.id, status)

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine to completion, even if its caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
