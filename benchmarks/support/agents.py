"""Agents with tools, streams, broken connections and retries, as in production.

Used by `exactness.py`. Each keeps the answers it received, and notes where it changed the history that it sends.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

KEY = "sk-agents"
"""One key for all agents: the server has to tell them apart by their messages."""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks around.",
            "parameters": {
                "type": "object",
                "properties": {"where": {"enum": ["north", "south"]}},
                "required": ["where"],
                "additionalProperties": False,
            },
        },
    }
]

Way = Literal["plain", "sent again", "sent twice", "broken off", "given up"]
WAYS: dict[Way, int] = {"plain": 60, "sent again": 10, "sent twice": 10, "broken off": 10, "given up": 10}
"""How a turn is requested, with weights: once; again after its answer; again while it is being answered; after a stream
that the agent closed midway; after a request that the agent stopped waiting for."""


@dataclass(slots=True)
class Given:
    """What an agent received of one turn."""

    turn_id: str
    episode_id: str
    message: dict[str, Any] = field(default_factory=lambda: {"role": "assistant", "content": ""})
    tokens: list[tuple[str, float]] | None = None
    """[K] text and logprob of each sampled token; None if the agent disconnected before the end."""
    usage: int | None = None
    rewritten: bool = False
    """The agent changed the history before the request."""
    stray: bool = False
    """The answer came from a different episode than the agent named."""
    unlike: bool = False
    """The same request, sent before, had a different answer."""
    repeated: bool = False
    """The agent discarded part of another answer and asked again."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server and its capabilities."""

    http: aiohttp.ClientSession
    url: str
    forces_calls: bool
    """It can be forced to call a tool."""


class Agent:
    """One agent in one conversation, which it considers one episode."""

    def __init__(self, server: Server, number: int) -> None:
        self._server = server
        self._random = random.Random(number)
        self._tie_by = self._random.choice(["key", "url", "header", "none"])
        # An agent with an episode says the same as three others concurrently, like a group that plays one task.
        alone = self._tie_by == "none"
        self._name = f"Agent {number}" if alone else f"Group {number // 4}"
        self._said = self._random if alone else random.Random(self._name)
        self._episode_id: str | None = None
        self._url = f"{server.url}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {KEY}"}
        self._tools = self._said.random() < 0.7
        self._messages: list[dict[str, Any]] = []
        self._rewritten = False
        self.given: list[Given] = []
        self.ways: list[Way] = []

    async def play(self) -> None:
        """Take all turns."""
        await self._tie()
        self._messages = [{"role": "system", "content": f"You are {self._name}."}, self._user("Where are you?")]
        for turn in range(self._random.randint(3, 7)):
            self._rewritten = turn > 1 and self._random.random() < 0.15
            if self._rewritten:
                self._rewrite()
            way = self._random.choices(list(WAYS), list(WAYS.values()))[0]
            given = await self._ask(way)
            self.ways.append(way)
            calls = given.message.get("tool_calls", [])
            results = [{"role": "tool", "tool_call_id": call["id"], "content": "trees"} for call in calls]
            self._messages += [given.message, *(results or [self._user("What else?")])]

    async def _tie(self) -> None:
        """Tie calls to an episode, if this agent uses episodes."""
        if self._tie_by == "none":
            return
        async with self._server.http.post(f"{self._server.url}/v1/episodes", json={}, headers=self._headers) as answer:
            opened = await answer.json()
        self._episode_id = opened["id"]
        if self._tie_by == "key":
            self._headers = {"authorization": f"Bearer {opened['key']}"}
        elif self._tie_by == "url":
            self._url = f"{opened['base_url']}/chat/completions"
        else:
            self._headers["x-episode-id"] = opened["id"]

    def _user(self, text: str) -> dict[str, Any]:
        return {"role": "user", "content": f"{text} ({self._name}, {self._said.randrange(10**9)})"}

    def _rewrite(self) -> None:
        """Change the history: edit its beginning, summarize it, or drop the last answer."""
        last = self._user("And now?")
        match self._random.randrange(3):
            case 0:
                self._messages[1] = self._user("Where were you?")
            case 1:
                self._messages = [self._messages[0], self._user("You saw trees. Go on.")]
            case 2:
                answers = [at for at, message in enumerate(self._messages) if message["role"] == "assistant"]
                self._messages = [*self._messages[: answers[-1]][:-1], last]

    async def _ask(self, way: Way) -> Given:
        """Get the next answer in the given way."""
        streams = {"broken off": True, "sent twice": True, "given up": False}.get(way, self._random.random() < 0.5)
        body: dict[str, Any] = {
            "model": "policy",
            "messages": self._messages,
            "stream": streams,
            "logprobs": True,
            "max_tokens": self._said.choice([24, 64, 200]),
        }
        if streams:
            body["stream_options"] = {"include_usage": True}
        if self._tools:
            body["tools"] = TOOLS
            if self._server.forces_calls and self._random.random() < 0.3:
                body["tool_choice"] = "required"
        if way == "given up":
            try:
                await asyncio.wait_for(self._send(body), 0.05)
            except TimeoutError:
                pass  # Intended: the agent loses the answer and asks again.
        if way == "broken off":
            part = await self._send(body, leave_after=self._random.randint(1, 8))
            await asyncio.sleep(self._random.choice([0, 0.3]))  # Before or after the server notices.
            again = await self._send(body, retry=self._random.random() < 0.5)
            again.repeated = again.turn_id != part.turn_id
            return again
        if way == "sent twice":
            begun = asyncio.Event()
            async with asyncio.TaskGroup() as both:
                first = both.create_task(self._send(body, begun=begun))
                await begun.wait()
                second = both.create_task(self._send(body, retry=True))
            return _same(first.result(), second.result())
        given = await self._send(body, retry=way == "given up")
        return _same(given, await self._send(body, retry=True)) if way == "sent again" else given

    async def _send(
        self,
        body: dict[str, Any],
        *,
        retry: bool = False,
        begun: asyncio.Event | None = None,
        leave_after: int | None = None,
    ) -> Given:
        """Send a request and read its answer, or only its first `leave_after` chunks."""
        headers = {**self._headers, **({"x-stainless-retry-count": "1"} if retry else {})}
        async with self._server.http.post(self._url, json=body, headers=headers) as response:
            if response.status != 200:
                raise RuntimeError(f"{self._name}: {response.status} {await response.text()}")
            if begun is not None:
                begun.set()
            given = Given(response.headers["x-turn-id"], response.headers["x-episode-id"], rewritten=self._rewritten)
            given.stray = self._episode_id not in (None, given.episode_id)
            if body["stream"]:
                await _read_stream(response, given, leave_after)
            else:
                answer = await response.json()
                given.message = {
                    name: said
                    for name, said in answer["choices"][0]["message"].items()
                    if name in ("role", "content", "tool_calls")
                }
                given.tokens, given.usage = _tokens(answer["choices"][0]), answer["usage"]["completion_tokens"]
        self.given.append(given)
        return given


async def _read_stream(response: aiohttp.ClientResponse, answer: Given, leave_after: int | None) -> None:
    calls: dict[int, dict[str, Any]] = {}
    async for line in response.content:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise RuntimeError(f"turn {answer.turn_id}: {chunk['error']}")
        for choice in chunk["choices"]:
            delta = choice["delta"]
            answer.message["content"] += delta.get("content") or ""
            for part in delta.get("tool_calls") or []:
                call = calls.setdefault(
                    part["index"],
                    {
                        "id": part.get("id"),
                        "type": "function",
                        "function": {"name": part["function"].get("name"), "arguments": ""},
                    },
                )
                call["function"]["arguments"] += part["function"]["arguments"]
            if choice["finish_reason"]:
                answer.tokens = _tokens(choice)
        answer.usage = (chunk.get("usage") or {}).get("completion_tokens", answer.usage)
        if leave_after is not None and (leave_after := leave_after - 1) <= 0:
            response.close()
            return
    if answer.tokens is None or answer.usage is None:
        raise RuntimeError(f"the stream of turn {answer.turn_id} ended too early")
    if calls:
        answer.message["tool_calls"] = list(calls.values())


def _tokens(choice: dict[str, Any]) -> list[tuple[str, float]]:
    return [(token["token"], token["logprob"]) for token in choice["logprobs"]["content"]]


def _same(one: Given, two: Given) -> Given:
    """Return the first answer; mark the second if it differs."""
    two.unlike = (one.turn_id, one.message["content"] or "", one.usage) != (
        two.turn_id,
        two.message["content"] or "",
        two.usage,
    )
    return one
