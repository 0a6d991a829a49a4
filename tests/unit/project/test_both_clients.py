"""The blocking and the awaiting client are one: the same operations, and the same rule for retries."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from upturn.calls import operation, streamed
from upturn.client import AsyncClient, AsyncEpisode, Client, Episode, UpturnAPIError
from upturn.episode import Opening
from upturn.wire import EpisodeOpen, RewardRequest, RunConfig, RunRequest

BY_HAND = {"close", "hurry", "episode", "openai"}
"""Methods that each client has for itself."""
STEP = {"observation": "", "reward": 0.0, "terminated": False, "truncated": False, "turns_left": 1}
REWARD = {"id": "rw_1", "value": 1.0, "source": "user", "turn": None, "created_at": 1.0}


def public(kind: type) -> dict[str, Any]:
    """Return the public methods of a class."""
    return {
        name: inspect.getattr_static(kind, name)
        for name in dir(kind)
        if not name.startswith("_") and not isinstance(inspect.getattr_static(kind, name), property)
    }


@pytest.mark.parametrize(("one", "other"), [(Client, AsyncClient), (Episode, AsyncEpisode)])
def test_both_kinds_have_the_same_methods_and_share_every_operation(one: type, other: type) -> None:
    of_one, of_other = public(one), public(other)
    assert of_one.keys() == of_other.keys()
    apart = {name for name in of_one if of_one[name] is not of_other[name]}
    assert apart <= BY_HAND
    shared = [method for name, method in of_one.items() if name not in BY_HAND]
    assert shared and all(isinstance(method, operation | streamed) for method in shared)


def test_every_operation_has_its_documentation_and_its_signature() -> None:
    for client in (Client("http://upturn"), AsyncClient("http://upturn")):
        for name in public(type(client)).keys() - BY_HAND:
            method = getattr(client, name)
            assert method.__doc__ and method.__name__ == name
            assert "self" not in inspect.signature(method).parameters
            by_class = inspect.signature(getattr(type(client), name)).parameters
            assert [*by_class] == ["self", *inspect.signature(method).parameters]


def test_the_block_of_an_episode_takes_every_field_of_its_opening() -> None:
    assert Opening.__annotations__.keys() == EpisodeOpen.model_fields.keys()


Answer = Callable[[], httpx2.Response] | Exception


def failing(*answers: Answer) -> tuple[Callable[[httpx2.Request], httpx2.Response], list[Any]]:
    """Return a server that gives these answers in turn, and what it was asked."""
    asked: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        answer = answers[len(asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer()

    return handle, asked


async def outcome(
    client: type, call: Callable[[Any], Any], answers: tuple[Answer, ...]
) -> tuple[Any, list[float], list[bytes]]:
    """Return what a call returns or raises, the pauses, and the bodies that were sent."""
    handle, asked = failing(*answers)
    sleeps: list[float] = []

    async def awaited(seconds: float) -> None:
        sleeps.append(seconds)

    sleep = sleeps.append if client is Client else awaited
    made = client("http://upturn", key="k", transport=httpx2.MockTransport(handle), sleep=sleep)
    try:
        result = call(made)
        result = await result if inspect.isawaitable(result) else result
    except UpturnAPIError as error:
        result = (error.status, error.code)
    assert all(request.headers["authorization"] == "Bearer k" for request in asked)
    return result, sleeps, [request.content for request in asked]


def body(content: Any, status: int = 200, **headers: str) -> Answer:
    return lambda: httpx2.Response(status, json=content, headers=headers)


def refusal(status: int) -> Answer:
    return body(
        {"error": {"message": "no", "type": "t", "param": None, "code": "oops"}}, status, **{"retry-after": "3"}
    )


LOST, UNREACHED = httpx2.ReadError("lost"), httpx2.ConnectError("refused")


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("call", "answers", "expected", "sent"),
    [
        (lambda c: c.runs(), (refusal(503), refusal(429), body({"data": []})), "data=[]", 3),
        (lambda c: c.runs(), (LOST, body({"data": []})), "data=[]", 2),
        (lambda c: c.step("e", "go"), (UNREACHED, body(STEP)), "turns_left=1", 2),
        (lambda c: c.step("e", "go"), (LOST,), "(0, 'connection_error')", 1),
        (lambda c: c.create_run(RunRequest(config=RunConfig(steps=1))), (LOST,), "(0, 'connection_error')", 1),
        (lambda c: c.open_episode(EpisodeOpen()), (LOST,), "(0, 'connection_error')", 1),
        (lambda c: c.rollback(), (LOST,), "(0, 'connection_error')", 1),
        (lambda c: c.runs(), (refusal(500),), "(500, 'oops')", 1),
        (lambda c: c.reward("ep_1", 1.0), (LOST, body(REWARD, 201)), "rw_1", 2),
        (lambda c: c.reward("chatcmpl-1", RewardRequest(value=1.0)), (LOST, body(REWARD, 201)), "rw_1", 2),
    ],
)
async def test_both_clients_retry_alike_and_never_repeat_an_action(
    client: type, call: Callable[[Any], Any], answers: tuple[Answer, ...], expected: str, sent: int
) -> None:
    result, sleeps, bodies = await outcome(client, call, answers)
    assert expected in str(result) and len(bodies) == sent
    assert len(sleeps) == sent - 1
    assert len(set(bodies)) == 1, "what is sent again is the same, its idempotency key included"


@pytest.mark.parametrize("client", [Client, AsyncClient])
async def test_two_rewards_of_the_same_value_are_two_rewards_unless_they_share_a_key(client: type) -> None:
    _, _, one = await outcome(client, lambda c: c.reward("ep_1", 1.0), (body(REWARD, 201),))
    _, _, two = await outcome(client, lambda c: c.reward("ep_1", 1.0), (body(REWARD, 201),))
    assert one != two
    _, _, one = await outcome(client, lambda c: c.reward("ep_1", 1.0, key="a"), (body(REWARD, 201),))
    _, _, two = await outcome(client, lambda c: c.reward("ep_1", 1.0, key="a"), (body(REWARD, 201),))
    assert one == two


@pytest.mark.parametrize("client", [Client, AsyncClient])
async def test_an_id_cannot_change_the_path_of_its_request(client: type) -> None:
    handle, asked = failing(refusal(404))
    made = client("http://upturn", transport=httpx2.MockTransport(handle))
    with pytest.raises(UpturnAPIError):
        result = made.transcript("../runs?x=/#")
        await result
    assert asked[0].url.raw_path == b"/v1/episodes/..%2Fruns%3Fx%3D%2F%23"
