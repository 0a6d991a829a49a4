"""Operations of both clients: the leaderboard."""

from __future__ import annotations

from upturn.calls import Procedure, Requests, operation
from upturn.wire import LeaderboardEnd, LeaderboardEntry, LeaderboardRequest, LeaderboardView


class LeaderboardOperations(Requests):
    """What measures models on tasks."""

    @operation
    def add_to_leaderboard(self, request: LeaderboardRequest) -> Procedure[LeaderboardEntry]:
        """Add a model to the leaderboard. Never retried after a lost answer."""
        return self._post("/v1/leaderboard", request, LeaderboardEntry)

    @operation
    def end_leaderboard_entry(self, entry_id: str, end: LeaderboardEnd) -> Procedure[LeaderboardEntry]:
        """End an endpoint's entry, once all its episodes have ended."""
        return self._post(f"/v1/leaderboard/{entry_id}/end", end, LeaderboardEntry, repeatable=True)

    @operation
    def leaderboard_entry(self, entry_id: str) -> Procedure[LeaderboardEntry]:
        """Return an entry of the leaderboard."""
        return self._get(f"/v1/leaderboard/{entry_id}", LeaderboardEntry)

    @operation
    def leaderboard(self, environment: str | None = None) -> Procedure[LeaderboardView]:
        """Return the newest entries of the leaderboard, of one environment or of all."""
        chosen = {} if environment is None else {"environment": environment}
        return self._get("/v1/leaderboard", LeaderboardView, **chosen)

    @operation
    def remove_from_leaderboard(self, entry_id: str) -> Procedure[None]:
        """Remove an entry; its episodes stay in the record."""
        yield from self._request("DELETE", f"/v1/leaderboard/{entry_id}", repeatable=True)
