"""Live episodes whose rewards were known after given delays, written as rows."""

from __future__ import annotations

from sqlalchemy.orm import Session

from server.store.database import id_at
from server.store.tables import EpisodeRow, RewardRow, StepRow, TurnRow


class Matured:
    """Writes one-turn live episodes of one API key."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.count = 0
        """The number in the last id."""

    def episode(
        self,
        opened_at: float,
        *rewards: tuple[float, float],
        version: int = 0,
        key: str = "key",
        source: str = "user",
        turns: tuple[tuple[float, int], ...] = ((1.0, -1),),
        failed_after: float | None = None,
    ) -> str:
        """Write an episode; return its id.

        Args:
            opened_at: Unix seconds.
            rewards: (delay in seconds, value) of each.
            version: the version on which it opened.
            key: the hash of the API key that opened it.
            source: of the rewards.
            turns: (delay in seconds, version) of each; -1 is the version on which it opened.
            failed_after: seconds until it failed, if it did.
        """
        episode_id = self._open(opened_at, version, key)
        if failed_after is not None:
            row = self.session.get_one(EpisodeRow, episode_id)
            row.status, row.error_class, row.closed_at = "error", "Broken", opened_at + failed_after
        for index, (delay, answered) in enumerate(turns):
            self._turn(episode_id, index, opened_at + delay, version if answered == -1 else answered)
        for index, (delay, value) in enumerate(rewards):
            self.reward(episode_id, opened_at + delay, value, source, f"{index}")
        self.session.flush()
        return episode_id

    def reward(self, episode_id: str, at: float, value: float, source: str = "user", key: str = "later") -> None:
        """Write a reward."""
        self.session.add(
            RewardRow(
                id=f"rw_{episode_id}_{key}", episode_id=episode_id, value=value, source=source, key=key, created_at=at
            )
        )

    def played(self, opened_at: float, ended_after: float, reward: float | None, *, version: int = 0) -> str:
        """Write an episode in an environment that has ended, with one step if it has a reward; return its id."""
        episode_id = self._open(opened_at, version, "key")
        row = self.session.get_one(EpisodeRow, episode_id)
        row.environment, row.status, row.closed_at = "e", "terminated", opened_at + ended_after
        self._turn(episode_id, 0, opened_at, version)
        if reward is not None:
            self.session.add(
                StepRow(
                    episode_id=episode_id, index=0, action="", observation="", reward=reward, terminated=True,
                    truncated=False, info={}, created_at=opened_at + ended_after,
                )
            )  # fmt: skip
        self.session.flush()
        return episode_id

    def _open(self, at: float, version: int, key: str) -> str:
        self.count += 1
        episode_id = f"{id_at('ep', at)}{self.count:012x}"
        self.session.add(
            EpisodeRow(
                id=episode_id, status="open", seed=0, horizon=9, purpose="other", policy_version=version,
                trainable=True, details={}, owner_hash=key, opened_at=at,
            )
        )  # fmt: skip
        self.session.flush()
        return episode_id

    def _turn(self, episode_id: str, index: int, at: float, version: int) -> None:
        self.session.add(
            TurnRow(
                id=f"turn_{episode_id}_{index}", episode_id=episode_id, index=index, digest="", messages=[], answer={},
                finish_reason="stop", prompt_tokens=1, completion_tokens=1, policy_version=version, temperature=1.0,
                trainable=True, forked=False, duration_ms=1.0, created_at=at,
            )
        )  # fmt: skip
