"""Simulated users: they talk over the plain OpenAI API, and reward hours later, with a bias.

Each has an API key and talks in a thread of its own. A request that a kill interrupts is sent again, as an SDK does;
any other failure counts.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
from openai import OpenAI, OpenAIError
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from benchmarks.support.thirty_nights.clock import Clock
from benchmarks.support.thirty_nights.game import KINDS, is_right, question, reply
from benchmarks.support.thirty_nights.plan import ANSWER
from benchmarks.support.thirty_nights.served import Served

BIASES = (-0.2, -0.1, 0.1, 0.3)
"""Of each user: what is added to the share of right answers; the sum is clipped to 0 to 1."""
TURNS = 3
REWARDED = 0.8
"""Share of conversations that get a reward."""
HOURS = {True: (3.0, 5.0), False: (0.5, 1.5)}
"""After how many hours a good reward arrives, and a bad one."""
TRIES = 100
HOUR_S = 3600.0


@dataclass
class Tally:
    """What the users counted since it was last taken."""

    answered: list[str] = field(default_factory=list)
    """Ids of the answered turns."""
    repeated: int = 0
    """Requests that a kill interrupted, each sent again."""
    failed: int = 0
    """Requests that failed although the server was not killed."""


@dataclass(frozen=True)
class Reward:
    """A reward that a user will give."""

    due: float
    """Unix seconds."""
    completion: str
    value: float
    user: int


class Users:
    """All users of a server."""

    def __init__(self, server: Served, clock: Clock, pending: Sequence[Reward], seed: int) -> None:
        self._server = server
        self._clock = clock
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._errors: list[Exception] = []
        self.pending = list(pending)
        """Rewards that are not due yet."""
        self.tally = Tally()

    @contextmanager
    def talking(self, pause_s: float) -> Iterator[None]:
        """Let all users talk until the block ends; each pauses after a conversation."""
        over = threading.Event()
        threads = [
            threading.Thread(target=self._talk, args=(user, over, pause_s), daemon=True) for user in range(len(BIASES))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join(300)
        if self._errors:
            raise self._errors[0]

    def talk(self, conversations: int) -> None:
        """Let all users talk until this number of conversations has been held."""
        wanted = len(self.tally.answered) + TURNS * conversations
        with self.talking(0.0):
            while len(self.tally.answered) < wanted and not self._errors:
                time.sleep(0.05)

    def reward(self) -> None:
        """Give the rewards that are due."""
        now = self._clock.now()
        for reward in [each for each in self.pending if each.due <= now]:
            httpx2.post(
                f"{self._server.url}/v1/rewards",
                json={"id": reward.completion, "value": reward.value, "source": "user", "key": "opinion"},
                headers={"authorization": f"Bearer {_key(reward.user)}"},
                timeout=60,
            ).raise_for_status()
            self.pending.remove(reward)

    def take(self) -> Tally:
        """Return what was counted, and begin to count anew."""
        taken, self.tally = self.tally, Tally()
        return taken

    def _talk(self, user: int, over: threading.Event, pause_s: float) -> None:
        try:
            with OpenAI(base_url=f"{self._server.url}/v1", api_key=_key(user), max_retries=0, timeout=60) as client:
                while not over.is_set():
                    self._converse(client, user)
                    over.wait(pause_s)
        except Exception as error:
            self._errors.append(error)

    def _converse(self, client: OpenAI, user: int) -> None:
        task = f"{self._random.choice(list(KINDS))}/live-{secrets.token_hex(6)}"
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question(task)}]
        said = set[str]()
        for _ in range(TURNS):
            answer = self._answered(client, messages)
            text = answer.choices[0].message.content or ""
            said |= set(text[:1]) if is_right(task, text, said) else set()
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": reply(said)}]
        if self._random.random() < REWARDED:
            value = min(1.0, max(0.0, len(said) / TURNS + BIASES[user]))
            due = self._clock.now() + HOUR_S * self._random.uniform(*HOURS[value >= 0.5])
            with self._lock:
                self.pending.append(Reward(due, answer.id, value, user))

    def _answered(self, client: OpenAI, messages: list[ChatCompletionMessageParam]) -> ChatCompletion:
        for tries in range(TRIES):
            self._server.up.wait()
            kills = self._server.kills
            try:
                answer = client.chat.completions.create(
                    model="policy",
                    messages=messages,
                    max_tokens=ANSWER.max_tokens,
                    extra_headers={"x-stainless-retry-count": str(tries)},
                )
            except OpenAIError:
                with self._lock:
                    if kills == self._server.kills and self._server.up.is_set():
                        self.tally.failed += 1
                    else:
                        self.tally.repeated += 1
                time.sleep(0.2)
                continue
            with self._lock:
                self.tally.answered.append(answer.id.removeprefix("chatcmpl-"))
            return answer
        raise RuntimeError(f"no answer to {messages[0]} in {TRIES} tries")


def _key(user: int) -> str:
    return f"sk-user-{user}"
