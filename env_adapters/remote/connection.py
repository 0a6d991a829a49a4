"""The common base of remote environments: URLs, bounded JSON over HTTP, and the splits of their tasks.

Each protocol has its own file. A URL may carry a key as its user name (`https://KEY@host/...`), which is sent as a
bearer token and never displayed. Responses are untrusted data: their size is bounded, and redirects are not followed.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from env_adapters.protocol import Environment, EnvironmentFailure, Isolation, UnknownTask

if TYPE_CHECKING:
    import httpx2

TIMEOUT_S = 100.0
"""Time limit for one response; default chosen by this project. AgentGym's own clients wait 300 s."""
ANSWER_BYTES = 8 * 2**20
TEST_SHARE = 0.2
SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """The address of a server."""

    url: str
    """The URL without its key and without a trailing slash."""
    headers: dict[str, str]
    fragment: str = ""

    def __str__(self) -> str:
        return self.url


def place(url: str) -> Place:
    """Parse a URL.

    Raises:
        ValueError: it is not an http or https URL with a host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.port == 0:
        raise ValueError(f"{parts.scheme}://{parts.hostname or ''} is not a URL like http://host:8000/path")
    headers = {"authorization": f"Bearer {unquote(parts.username)}"} if parts.username else {}
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl().rstrip("/")
    return Place(bare, headers, parts.fragment)


class Http:
    """A blocking client of one server, for one episode."""

    def __init__(self, where: Place) -> None:
        import httpx2

        self._client = httpx2.Client(headers=where.headers, timeout=TIMEOUT_S)
        self._where = where

    def call(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Any:
        """Send a request and return the response's JSON.

        Raises:
            EnvironmentFailure: no response, a status other than 200, a response that is too large or is not JSON.
        """
        answer, content = self.send(method, path, body, headers=headers)
        if answer.status_code != 200:
            raise EnvironmentFailure(f"{self._where}{path} answered {answer.status_code}: {content[:300]!r}")
        return parse(content)

    def send(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None
    ) -> tuple[httpx2.Response, str]:
        """Send a request; return the response, whatever its status, and its text."""
        import httpx2

        try:
            with self._client.stream(method, self._where.url + path, json=body, headers=headers) as answer:
                content = bytearray()
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > ANSWER_BYTES:
                        raise EnvironmentFailure(f"{self._where}{path} answered more than {ANSWER_BYTES} bytes")
        except httpx2.HTTPError as error:
            raise EnvironmentFailure(f"{self._where}{path}: {type(error).__name__}: {error}") from error
        return answer, content.decode(errors="replace")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def parse(text: str) -> Any:
    """Parse a server's JSON.

    Raises:
        EnvironmentFailure: the text is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EnvironmentFailure(f"the server's answer is not JSON: {text[:300]!r}") from error


def number(value: Any) -> float:
    """Return a server's reward: a finite number, a boolean, or null for 0.

    Raises:
        EnvironmentFailure: the value has another type, or is not finite.
    """
    if value is None:
        return 0.0
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        raise EnvironmentFailure(f"the server sent {str(value)[:100]!r} as a reward")
    return float(value)


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object in an answer, from its first brace to its last.

    Raises:
        ValueError: the answer contains no JSON object.
    """
    try:
        found = json.loads(text[text.find("{") : text.rfind("}") + 1])
    except (ValueError, RecursionError) as error:
        raise ValueError("it holds no JSON object") from error
    return dict(found)


def seed_tasks() -> Iterable[str]:
    """Return the tasks of a server that has only seeds."""
    return (f"seed-{index}" for index in range(SEEDS))


def seed_of(task: str, seed: int) -> int:
    """Return the server's seed for a task such as `seed-17` and an episode's seed 0, 1, 2, ...: 17, 1017, 2017, ...

    Tasks never share a seed, and it fits into 31 bits, the limit of some random generators.

    Raises:
        UnknownTask: the task does not exist.
    """
    found = re.fullmatch(r"seed-(0|[1-9][0-9]{0,5})", task)
    if found is None or int(found[1]) >= SEEDS:
        raise UnknownTask(f"no task {task!r}; they are named seed-0 to seed-{SEEDS - 1}")
    return (int(found[1]) + SEEDS * seed) % 2**31


class RemoteInstance:
    """Base of remote instances, which have no solver and do not know their possible actions."""

    def oracle(self) -> str:
        """Raise `NotImplementedError`: there is no solver."""
        raise NotImplementedError("a remote environment has no solver")

    def random(self, rng: random.Random) -> str:
        """Raise `NotImplementedError`: the possible actions are unknown."""
        raise NotImplementedError("this environment does not list its actions")


class RemoteSpec:
    """The tasks of one server. Listing them sends no request."""

    isolation: Isolation = "thread"
    step_timeout_s = TIMEOUT_S + 20.0

    def __init__(self, name: str, description: str, tasks: Iterable[str], make: Callable[[], Environment]) -> None:
        self.name, self.description = name, description
        self._tasks, self._make = tuple(tasks), make

    @property
    def tools(self) -> list[dict[str, Any]]:
        """No tools, unless the protocol has them."""
        return []

    def missing(self) -> str | None:
        """Return None: a client needs only the base installation."""
        return None

    def text_of(self, name: str, arguments: dict[str, Any]) -> str:
        """Reject every call: the server has no tools."""
        raise ValueError(f"{self.name} has no tool {name!r}: it is played by text")

    def splits(self) -> list[str]:
        """Return the two disjoint splits. `test` has a fifth of the tasks, chosen by a hash of the name."""
        return ["train", "test"]

    def tasks(self, split: str) -> list[str]:
        """Return the tasks of a split."""
        if split not in self.splits():
            raise UnknownTask(f"{self.name} has no split {split!r}; it has train and test")
        return [task for task in self._tasks if _is_test(task) == (split == "test")]

    def make(self) -> Environment:
        """Make an instance. Depending on the protocol it connects now or at its first reset."""
        return self._make()


def _is_test(task: str) -> bool:
    digest = hashlib.sha256(f"remote/{task}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32
