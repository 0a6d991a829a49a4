"""Callers: maps an API key, or an episode's own key, to what its bearer may do.

Lookups are cached for a second, so that a busy key costs no query per request, and a key that another process created
or revoked counts soon. Unknown keys are looked up together, one query at a time: whoever sends wrong keys takes one
thread, however many connections it opens. Keys are compared by their SHA-256, so the time of a comparison tells nothing
about a key. What each route requires is declared with the dependencies in `authentication.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa

from server.api.access.failures import Failures
from server.api.access.limits import Limit
from server.errors import Forbidden, InvalidKey, NotFound, RateLimited
from server.recording.keys import EPISODE_KEY, hash_of, new_key
from server.store.database import Database
from server.store.tables import ApiKeyRow, EpisodeRow
from upturn.wire import Scope

Value = TypeVar("Value")

CACHED_S = 1.0
CACHED_KEYS = 10_000
"""Maximum number of valid keys in memory, and of invalid ones."""
GUESSER_WAITS_S = 1.0
"""How long the answer takes once an address has sent too many wrong keys: whoever waits for it cannot send more."""
LOOKED_UP = 500
"""Maximum number of keys in one query."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The bearer of a key."""

    name: str
    key_hash: str
    """SHA-256 of the key, which owns the episodes it opens; without a key, the SHA-256 of the empty string."""
    scopes: frozenset[Scope] = frozenset()
    episode_id: str | None = None
    """The only episode the caller may act on, if the key is that episode's own."""
    reward_sources: frozenset[str] | None = None
    """The only sources as which it may reward; None for any that is not reserved."""
    limit: Limit | None = None

    def may(self, *scopes: Scope) -> bool:
        """Return whether the caller has one of these scopes; an admin has all scopes."""
        return not self.scopes.isdisjoint((*scopes, "admin"))


class Callers:
    """Finds callers. If keys are not required, everyone is an admin, except with an episode's own key."""

    def __init__(
        self,
        database: Database,
        *,
        required: bool,
        episode_keys_reward: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._required = required
        self._episode_keys_reward = episode_keys_reward
        self._clock = clock
        self._own: dict[str, Caller] = {}
        self._cache: OrderedDict[str, tuple[float, Caller]] = OrderedDict()
        """Valid keys by hash, each with the time until which it counts."""
        self._wrong: OrderedDict[str, float] = OrderedDict()
        """Invalid keys by hash. Apart from the valid ones, so that guesses cannot displace them."""
        self._failures = Failures(clock)
        self._waiting: dict[tuple[bool, str], asyncio.Future[Caller | None]] = {}
        """Lookups that have not begun."""
        self._reading: asyncio.Task[None] | None = None
        self._forgotten = 0
        """Number of calls of `forget`: a lookup that began before one of them is not cached."""

    def own_key(self, name: str, scope: Scope) -> str:
        """Return a new key for a component of this server. It exists in memory only and ends with the process."""
        key = new_key()
        self._own[hash_of(key)] = Caller(name, hash_of(key), frozenset((scope,)))
        return key

    def is_own(self, caller: Caller) -> bool:
        """Return whether a caller is a component of this server."""
        return caller.key_hash in self._own

    async def find(self, key: str, address: str = "") -> Caller:
        """Return the bearer of a key.

        Args:
            key: the key.
            address: the client's address, to which a wrong key counts.

        Raises:
            InvalidKey: the key is missing, unknown or revoked.
            RateLimited: so it is, and the address has sent too many wrong keys.
        """
        key_hash = hash_of(key)
        if key_hash in self._own:
            return self._own[key_hash]
        if not self._required and not key.startswith(EPISODE_KEY):
            return Caller("anonymous", key_hash, frozenset(("admin",)))
        if not key:
            raise InvalidKey("this server requires an API key: send `Authorization: Bearer KEY` or `x-api-key: KEY`")
        caller = await self._look_up(key, key_hash)
        if caller is None:
            try:
                self._failures.count(address)
            except RateLimited:
                await asyncio.sleep(GUESSER_WAITS_S)
                raise
            raise InvalidKey("the API key is invalid or revoked")
        return caller

    def forget(self) -> None:
        """Clear the cache: a key was created or revoked."""
        self._forgotten += 1
        self._cache.clear()
        self._wrong.clear()

    async def check_episode(self, caller: Caller, named: str | None) -> None:
        """Check that a caller may act on the episode it names; `named` is None if it names no episode.

        Raises:
            Forbidden: the caller's scopes do not cover episodes.
            NotFound: the episode does not exist or belongs to another caller, which look the same.
        """
        if caller.episode_id is not None:
            mine = named in (None, caller.episode_id)
        elif caller.may("agent"):
            mine = caller.may() or named is None or await asyncio.to_thread(self._owner, named) == caller.key_hash
        else:
            raise Forbidden(f"{caller.name!r} lacks the required scope: agent")
        if not mine:
            raise NotFound(f"no episode {named!r}", code="episode_not_found")

    async def check_rewards(self, caller: Caller, episode_id: str) -> None:
        """Check that a caller may reward an episode: an agent its own ones, a key without that scope all of them.

        Raises:
            Forbidden: the caller's scopes do not cover rewards.
            NotFound: the episode does not exist or belongs to another caller, which look the same.
        """
        if caller.episode_id is not None or caller.may("agent"):
            await self.check_episode(caller, episode_id)
        if not caller.may("reward"):
            whose = "an episode's own key" if caller.episode_id is not None else repr(caller.name)
            raise Forbidden(f"{whose} lacks the required scope: reward")

    async def _look_up(self, key: str, key_hash: str) -> Caller | None:
        """Return the bearer of a key; None if the key is invalid."""
        now = self._clock()
        until, caller = self._cache.get(key_hash, (0.0, None))
        if until > now:
            return caller
        if self._wrong.get(key_hash, 0.0) > now:
            return None
        lookup = (key.startswith(EPISODE_KEY), key_hash)
        if lookup not in self._waiting:
            self._waiting[lookup] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_waiting())
        return await asyncio.shield(self._waiting[lookup])

    async def _read_waiting(self) -> None:
        """Look up all keys that wait, until none does."""
        while self._waiting:
            lookups = {lookup: self._waiting.pop(lookup) for lookup in list(self._waiting)[:LOOKED_UP]}
            forgotten = self._forgotten
            try:
                found = await asyncio.to_thread(self._read, lookups)
            except Exception as error:  # Each of them is answered with it.
                for waiting in lookups.values():
                    waiting.set_exception(error)
                    waiting.exception()  # Marks it as retrieved: its request may have been canceled.
                continue
            for (_, key_hash), waiting in lookups.items():
                caller = found.get(key_hash)
                if forgotten == self._forgotten:
                    self._remember(key_hash, caller)
                waiting.set_result(caller)
        self._reading = None

    def _remember(self, key_hash: str, caller: Caller | None) -> None:
        until = self._clock() + CACHED_S
        if caller is None:
            _put(self._wrong, key_hash, until)
        else:
            _put(self._cache, key_hash, (until, caller))

    def _read(self, lookups: Iterable[tuple[bool, str]]) -> dict[str, Caller]:
        """Return the bearers of valid keys by hash. Each lookup says whether the key is an episode's own."""
        of_episodes = [key_hash for of_episode, key_hash in lookups if of_episode]
        others = [key_hash for of_episode, key_hash in lookups if not of_episode]
        with self._database.read() as session:
            episodes = (
                session.execute(
                    sa.select(EpisodeRow.id, EpisodeRow.key_hash, EpisodeRow.owner_hash).where(
                        EpisodeRow.key_hash.in_(of_episodes)
                    )
                ).all()
                if of_episodes
                else []
            )
            openers = [episode.owner_hash for episode in episodes if self._required and episode.owner_hash]
            wanted = {*others, *openers}
            query = sa.select(ApiKeyRow).where(ApiKeyRow.key_hash.in_(wanted))
            keys = {row.key_hash: row for row in session.scalars(query)} if wanted else {}
        found = {
            key_hash: Caller(row.name, key_hash, frozenset(row.scopes), reward_sources=_sources(row), limit=_limit(row))
            for key_hash in others
            if (row := keys.get(key_hash)) is not None and row.revoked_at is None
        }
        for episode in episodes:
            # Requests with an episode's key count against the key that opened it; otherwise it would evade the limits.
            opener = keys.get(episode.owner_hash) if self._required else None
            if opener is None or opener.revoked_at is None:
                found[episode.key_hash] = self._of_episode(episode.id, episode.key_hash, opener)
        return found

    def _of_episode(self, episode_id: str, key_hash: str, opener: ApiKeyRow | None) -> Caller:
        """Return the bearer of an episode's own key."""
        opener_may = opener is not None and not {"reward", "admin"}.isdisjoint(opener.scopes)
        rewards = self._episode_keys_reward and (opener_may or not self._required)
        return Caller(
            episode_id,
            key_hash,
            frozenset(("reward",) if rewards else ()),
            episode_id=episode_id,
            reward_sources=_sources(opener) if opener else None,
            limit=_limit(opener) if opener else None,
        )

    def _owner(self, episode_id: str) -> str | None:
        with self._database.read() as session:
            return session.scalar(sa.select(EpisodeRow.owner_hash).where(EpisodeRow.id == episode_id))


def _put(cache: OrderedDict[str, Value], key_hash: str, value: Value) -> None:
    """Add an entry; beyond the bound, the oldest ones are dropped."""
    cache[key_hash] = value
    cache.move_to_end(key_hash)
    while len(cache) > CACHED_KEYS:
        cache.popitem(last=False)


def _limit(row: ApiKeyRow) -> Limit:
    return Limit(row.id, row.requests_per_minute, row.max_concurrent)


def _sources(row: ApiKeyRow) -> frozenset[str] | None:
    return None if row.reward_sources is None else frozenset(row.reward_sources)
