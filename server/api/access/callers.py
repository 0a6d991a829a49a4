"""Callers: maps an API key, or an episode's own key, to what its bearer may do.

Lookups are cached for a second, so that a busy key costs no query per request and a revoked key stops working soon.
What each route requires is declared with the dependencies in `authentication.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.api.access.limits import Limit
from server.errors import Forbidden, InvalidKey, NotFound
from server.recording.keys import EPISODE_KEY, hash_of, new_key
from server.store.database import Database
from server.store.tables import ApiKeyRow, EpisodeRow
from upturn.wire import Scope

CACHED_S = 1.0
CACHED_KEYS = 10_000  # Invalid keys are cached too: this bounds the memory that a brute-force attempt can fill.


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
        self._cache: dict[str, tuple[float, Caller | None]] = {}

    def own_key(self, name: str, scope: Scope) -> str:
        """Return a new key for a component of this server. It exists in memory only and ends with the process."""
        key = new_key()
        self._own[hash_of(key)] = Caller(name, hash_of(key), frozenset((scope,)))
        return key

    async def find(self, key: str) -> Caller:
        """Return the bearer of a key.

        Raises:
            InvalidKey: the key is missing, unknown or revoked.
        """
        key_hash = hash_of(key)
        if key_hash in self._own:
            return self._own[key_hash]
        if not self._required and not key.startswith(EPISODE_KEY):
            return Caller("anonymous", key_hash, frozenset(("admin",)))
        if not key:
            raise InvalidKey("this server requires an API key: send `Authorization: Bearer KEY` or `x-api-key: KEY`")
        until, caller = self._cache.get(key_hash, (0.0, None))
        if until <= self._clock():
            caller = await asyncio.to_thread(self._read, key, key_hash)
            if len(self._cache) >= CACHED_KEYS:
                self._cache.clear()
            self._cache[key_hash] = (self._clock() + CACHED_S, caller)
        if caller is None:
            raise InvalidKey("the API key is invalid or revoked")
        return caller

    def forget(self) -> None:
        """Clear the cache: a key was revoked."""
        self._cache.clear()

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

    def _read(self, key: str, key_hash: str) -> Caller | None:
        with self._database.read() as session:
            if not key.startswith(EPISODE_KEY):
                row = _key(session, key_hash)
                if row is None or row.revoked_at is not None:
                    return None
                return Caller(
                    row.name, key_hash, frozenset(row.scopes), reward_sources=_sources(row), limit=_limit(row)
                )
            episode = session.execute(
                sa.select(EpisodeRow.id, EpisodeRow.owner_hash).where(EpisodeRow.key_hash == key_hash)
            ).first()
            if episode is None:
                return None
            opener = _key(session, episode.owner_hash) if self._required else None
            if opener is not None and opener.revoked_at is not None:
                return None
            # Requests with an episode's key count against the key that opened it; otherwise it would evade the limits.
            opener_may = opener is not None and not {"reward", "admin"}.isdisjoint(opener.scopes)
            rewards = self._episode_keys_reward and (opener_may or not self._required)
            return Caller(
                episode.id,
                key_hash,
                frozenset(("reward",) if rewards else ()),
                episode_id=episode.id,
                reward_sources=_sources(opener) if opener else None,
                limit=_limit(opener) if opener else None,
            )

    def _owner(self, episode_id: str) -> str | None:
        with self._database.read() as session:
            return session.scalar(sa.select(EpisodeRow.owner_hash).where(EpisodeRow.id == episode_id))


def _key(session: Session, key_hash: str | None) -> ApiKeyRow | None:
    return session.scalar(sa.select(ApiKeyRow).where(ApiKeyRow.key_hash == key_hash))


def _limit(row: ApiKeyRow) -> Limit:
    return Limit(row.id, row.requests_per_minute, row.max_concurrent)


def _sources(row: ApiKeyRow) -> frozenset[str] | None:
    return None if row.reward_sources is None else frozenset(row.reward_sources)
