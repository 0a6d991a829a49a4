"""Environment instances of open episodes, and what a step does to its episode.

Adapters block, so they run in threads, one step of an episode at a time. A step is durable before it is answered.
"""

from __future__ import annotations

import asyncio
import time

from clients.wire import StepResult
from env_adapters import family
from env_adapters.protocol import Environment, Family, Reset, Transition, UnknownTask
from server.errors import BadRequest, Conflict, EnvironmentFailed, HorizonReached, NotFound, UpturnError
from server.recording.episode import Episode, Episodes
from server.store.tables import StepRow
from server.store.writer import Writer


def find_family(name: str) -> Family:
    """Return the environment of that name. It may read files: not for the event loop.

    Raises:
        NotFound: there is none.
    """
    try:
        return family(name)
    except UnknownTask as error:
        raise NotFound(str(error.args[0]), param="environment", code="environment_not_found") from error


class Sessions:
    """The environments of all open episodes."""

    def __init__(self, writer: Writer, episodes: Episodes) -> None:
        self._writer = writer
        self._episodes = episodes
        self._instances: dict[str, Environment] = {}
        episodes.when_ended.append(self.release)

    async def prepare(self, name: str, task: str | None, seed: int) -> tuple[Environment, Reset]:
        """Make and reset an environment, before its episode is opened.

        Raises:
            NotFound: no such environment or task.
        """
        if task is None:
            raise BadRequest("an episode of an environment needs a task", param="task")
        environment = await asyncio.to_thread(lambda: find_family(name).make())
        try:
            return environment, await asyncio.to_thread(environment.reset, task, seed)
        except UnknownTask as error:
            raise NotFound(str(error.args[0]), param="task", code="task_not_found") from error
        except Exception as error:
            raise EnvironmentFailed(f"{name} failed to start: {type(error).__name__}: {error}") from error

    def attach(self, episode: Episode, environment: Environment) -> None:
        """Give an open episode its environment."""
        self._instances[episode.id] = environment

    async def oracle(self, episode: Episode) -> str:
        """Return the answer of the environment's own solver.

        Raises:
            BadRequest: it has none.
        """
        try:
            return await asyncio.to_thread(self._instances[episode.id].oracle)
        except NotImplementedError as error:
            raise BadRequest(f"{episode.environment} has no oracle", param="agent", code="no_oracle") from error

    async def step(self, episode: Episode, text: str) -> StepResult:
        """Act; record the step; end the episode where the environment or the horizon ends it.

        Raises:
            Conflict: the episode has ended or has no environment.
            EnvironmentFailed: the environment failed; so has its episode.
        """
        async with episode.stepping:
            episode.must_be_open()
            environment = self._instances.get(episode.id)
            if environment is None:
                raise Conflict(f"episode {episode.id} has no environment", code="no_environment")
            if episode.steps >= episode.horizon:
                raise HorizonReached(f"episode {episode.id} has used its {episode.horizon} turns")
            try:
                transition = await asyncio.to_thread(environment.step, text)
            except Exception as error:
                await self._episodes.end(episode, "error", error_class=type(error).__name__, reason=str(error))
                raise EnvironmentFailed(
                    f"{episode.environment} failed: {type(error).__name__}: {error}") from error
            try:
                return await self._record(episode, text, transition)
            except UpturnError:
                self.release(episode.id)  # It is a step ahead of its record: the step sent again would be another one.
                raise

    def release(self, episode_id: str) -> None:
        """Close an episode's environment, if it has one."""
        environment = self._instances.pop(episode_id, None)
        if environment is not None:
            environment.close()

    def close(self) -> None:
        """Close all environments."""
        for episode_id in list(self._instances):
            self.release(episode_id)

    async def _record(self, episode: Episode, text: str, transition: Transition) -> StepResult:
        last = episode.steps + 1 >= episode.horizon
        truncated = not transition.terminated and (transition.truncated or last)
        row = StepRow(episode_id=episode.id, index=episode.steps, action=text, observation=transition.observation,
                      reward=transition.reward, terminated=transition.terminated, truncated=truncated,
                      info=transition.info, created_at=time.time())
        await self._writer.write(lambda session: session.add(row))
        episode.steps += 1
        if transition.terminated or truncated:
            await self._episodes.end(episode, "terminated" if transition.terminated else "truncated",
                                     success=bool(transition.success))
        return StepResult(observation=transition.observation, reward=transition.reward,
                          terminated=transition.terminated, truncated=truncated, turns_left=episode.turns_left)
