"""Keys in memory: how many, for how long, and that wrong keys cost little."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from server.api.access import callers as module
from server.api.access.callers import Caller, Callers
from server.errors import InvalidKey, RateLimited
from server.recording.keys import create_key, hash_of, new_key, revoke_key
from server.store.database import Database
from upturn.wire import KeyCreate


class Clock:
    """A time that tests set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Counted(Callers):
    """Counts the keys that it looks up in the database."""

    looked_up = 0
    queries = 0

    def _read(self, lookups: object) -> dict[str, Caller]:
        self.looked_up += len(lookups)  # type: ignore[arg-type]
        self.queries += 1
        return super()._read(lookups)  # type: ignore[arg-type]


@pytest.fixture
def key(database: Database) -> Callable[[], tuple[str, str]]:
    """Returns a new agent's id and key."""

    def make() -> tuple[str, str]:
        with Session(database.writer) as session, session.begin():
            made = create_key(session, KeyCreate(name="agent", scopes=["agent"]))
        return made.id, made.key

    return make


async def refused(callers: Callers, key: str) -> None:
    with pytest.raises(InvalidKey):
        await callers.find(key)


async def test_wrong_keys_fill_no_memory_and_displace_no_right_key(
    database: Database, key: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHED_KEYS", 3)
    callers, (_, right) = Counted(database, required=True, clock=Clock()), key()
    assert (await callers.find(right)).name == "agent"
    wrong = [new_key() for _ in range(5)]
    for one in wrong:
        await refused(callers, one)
    assert list(callers._wrong) == [hash_of(one) for one in wrong[2:]]
    assert list(callers._cache) == [hash_of(right)] and not callers._waiting
    assert callers.looked_up == 6
    await callers.find(right)
    for one in wrong[2:]:
        await refused(callers, one)
    assert callers.looked_up == 6, "they are known"
    await refused(callers, wrong[0])
    assert callers.looked_up == 7


async def test_no_more_right_keys_are_kept_than_the_bound(
    database: Database, key: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHED_KEYS", 3)
    callers, right = Counted(database, required=True, clock=Clock()), [key()[1] for _ in range(5)]
    for one in right:
        await callers.find(one)
    assert list(callers._cache) == [hash_of(one) for one in right[2:]]


async def test_a_key_counts_for_a_second_and_is_then_looked_up_again(
    database: Database, key: Callable[[], tuple[str, str]]
) -> None:
    clock = Clock()
    callers, (key_id, right) = Counted(database, required=True, clock=clock), key()
    await callers.find(right)
    with Session(database.writer) as session, session.begin():
        revoke_key(session, key_id)
    clock.now += 0.99
    await callers.find(right)
    assert callers.looked_up == 1
    clock.now += 0.01
    await refused(callers, right)
    assert callers.looked_up == 2


async def test_a_key_that_is_revoked_here_ends_at_once(database: Database, key: Callable[[], tuple[str, str]]) -> None:
    callers, (key_id, right) = Counted(database, required=True, clock=Clock()), key()
    await callers.find(right)
    with Session(database.writer) as session, session.begin():
        revoke_key(session, key_id)
    callers.forget()
    await refused(callers, right)


async def test_a_lookup_that_began_before_a_change_of_keys_is_not_kept(
    database: Database, key: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    callers, (_, right) = Counted(database, required=True, clock=Clock()), key()
    read = callers._read

    def changed(lookups: object) -> dict[str, Caller]:
        found = read(lookups)
        callers.forget()
        return found

    monkeypatch.setattr(callers, "_read", changed)
    await callers.find(right)
    assert not callers._cache and not callers._wrong


async def test_keys_that_come_together_are_looked_up_together(
    database: Database, key: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKED_UP", 4)
    callers, right = Counted(database, required=True, clock=Clock()), key()[1]
    wrong = [new_key() for _ in range(7)]
    found = await asyncio.gather(*(callers.find(one) for one in [*wrong, right, right]), return_exceptions=True)
    assert [type(one) for one in found] == [InvalidKey] * 7 + [Caller] * 2
    assert (callers.looked_up, callers.queries) == (8, 2)


async def test_a_lookup_that_fails_answers_everyone_and_the_next_one_succeeds(
    database: Database, key: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    callers, (_, right) = Counted(database, required=True, clock=Clock()), key()
    with monkeypatch.context() as patch:
        patch.setattr(callers, "_read", lambda lookups: 1 / 0)
        failed = await asyncio.gather(*(callers.find(right) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in failed] == [ZeroDivisionError] * 3
    assert (await callers.find(right)).name == "agent"


async def test_an_address_with_too_many_wrong_keys_is_told_so_and_right_keys_are_still_found(
    database: Database, key: Callable[[], tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GUESSER_WAITS_S", 0.0)
    monkeypatch.setattr("server.api.access.failures.PER_MINUTE", 2)
    callers, (_, right) = Counted(database, required=True, clock=Clock()), key()
    for _ in range(2):
        await refused(callers, new_key())
    with pytest.raises(RateLimited):
        await callers.find(new_key())
    assert (await callers.find(right)).name == "agent"
