"""An open episode as a `with` block: its agent's client, its steps, its rewards; the block's end closes it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar

from upturn.calls import Asynchronous, Procedure, Requests, Synchronous, operation
from upturn.operations.episodes import EpisodeOperations
from upturn.transport import AsyncTransport, Transport
from upturn.wire import ChatMessage, EpisodeOpen, EpisodeOpened, EpisodeView, RewardRequest, RewardView, StepResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from openai import AsyncOpenAI, OpenAI

    from upturn.calls import Stream

Client = TypeVar("Client", bound=Requests)
T = TypeVar("T")
NO_OPENAI = "episode.openai() needs the package openai: `pip install openai`"


class Opening(TypedDict, total=False):
    """How an episode is opened: the fields of `EpisodeOpen`."""

    environment: str | None
    task: str | None
    seed: int
    horizon: int | None
    group: str | None
    policy: str | None
    trainable: bool
    metadata: dict[str, Any]


class OpenEpisode(Generic[Client]):
    """What both kinds of episodes do; `client.episode(...)` makes one, and a `with` block opens and closes it."""

    def __init__(self, client: Client, opening: EpisodeOpen) -> None:
        self._client = client
        self._opening = opening
        self._opened: EpisodeOpened | None = None
        self._agents: list[Any] = []

    @property
    def opened(self) -> EpisodeOpened:
        """The server's answer to opening the episode."""
        if self._opened is None:
            raise RuntimeError("this episode is not open: write `with client.episode(...) as episode:`")
        return self._opened

    @property
    def id(self) -> str:
        """The episode's id."""
        return self.opened.id

    @property
    def key(self) -> str:
        """An API key that ties every call to this episode."""
        return self.opened.key

    @property
    def base_url(self) -> str:
        """An OpenAI `base_url` that ties every call to this episode."""
        return f"{self._client.base_url}/episodes/{self.id}/v1"

    @property
    def messages(self) -> list[ChatMessage]:
        """First messages to send: the environment's instructions and first observation. Empty for a live agent."""
        return self.opened.messages

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The environment's actions as OpenAI function tools; empty for a text-only environment."""
        return self.opened.tools

    @operation
    def step(self, action: str) -> Procedure[StepResult]:
        """Act in the environment by an answer's text. Never sent twice after a lost answer."""
        return EpisodeOperations.step.describe(self._client, self.id, action)

    @operation
    def call(self, name: str, arguments: dict[str, Any]) -> Procedure[StepResult]:
        """Act in the environment by a tool call. Never sent twice after a lost answer."""
        return EpisodeOperations.call.describe(self._client, self.id, name, arguments)

    @operation
    def reward(
        self,
        request: RewardRequest | float,
        *,
        source: str = "user",
        turn: int | None = None,
        key: str | None = None,
    ) -> Procedure[RewardView]:
        """Add a reward, as `Client.reward`."""
        return EpisodeOperations.reward.describe(self._client, self.id, request, source=source, turn=turn, key=key)

    @operation
    def transcript(self) -> Procedure[EpisodeView]:
        """Return the episode with all its turns, steps and rewards."""
        return EpisodeOperations.transcript.describe(self._client, self.id)

    @operation
    def close(self, reason: str | None = None) -> Procedure[EpisodeView]:
        """Close the episode before the block ends; return its transcript."""
        return EpisodeOperations.close_episode.describe(self._client, self.id, reason)

    def _agent_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"base_url": self.base_url, "api_key": self.key, **options}


class Episode(OpenEpisode[Transport], Synchronous):
    """An episode of the synchronous client."""

    def openai(self, **options: Any) -> OpenAI:
        """Return an OpenAI client whose every call belongs to this episode; the block's end closes it.

        Args:
            options: further arguments of `openai.OpenAI`.
        """
        try:
            from openai import OpenAI
        except ModuleNotFoundError as error:
            raise RuntimeError(NO_OPENAI) from error
        agent = OpenAI(**self._agent_options(options))
        self._agents.append(agent)
        return agent

    def __enter__(self) -> Self:
        self._opened = self._perform(EpisodeOperations.open_episode.describe(self._client, self._opening))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for agent in self._agents:
            agent.close()
        try:
            self.close(_reason(error))
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"episode {self.id} stays open: {failure}")

    def _perform(self, steps: Procedure[T]) -> T:
        return self._client._perform(steps)

    def _iterate(self, steps: Stream[T]) -> Iterator[T]:
        return self._client._iterate(steps)


class AsyncEpisode(OpenEpisode[AsyncTransport], Asynchronous):
    """An episode of the asynchronous client."""

    def openai(self, **options: Any) -> AsyncOpenAI:
        """Return an asynchronous OpenAI client whose every call belongs to this episode; the block's end closes it.

        Args:
            options: further arguments of `openai.AsyncOpenAI`.
        """
        try:
            from openai import AsyncOpenAI
        except ModuleNotFoundError as error:
            raise RuntimeError(NO_OPENAI) from error
        agent = AsyncOpenAI(**self._agent_options(options))
        self._agents.append(agent)
        return agent

    async def __aenter__(self) -> Self:
        self._opened = await self._perform(EpisodeOperations.open_episode.describe(self._client, self._opening))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for agent in self._agents:
            await agent.close()
        try:
            await self.close(_reason(error))
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"episode {self.id} stays open: {failure}")

    async def _perform(self, steps: Procedure[T]) -> T:
        return await self._client._perform(steps)

    def _iterate(self, steps: Stream[T]) -> AsyncIterator[T]:
        return self._client._iterate(steps)


def _reason(error: BaseException | None) -> str | None:
    """Return what is recorded of an agent that failed: the error's class, since its message may quote anything."""
    return None if error is None else f"the agent failed: {type(error).__name__}"
