"""The live-reward watch: roll back a promoted version that earns less, and decide on a canary (step 14).

The ledger names the watched rows: the row that approved the champion if it is a promotion, and the newest row if it is
a canary. Every few seconds all rewards since then are read and compared from the first one, so a restart loses nothing.
`regression.py` decides what counts as worse, `server/versions/champion.py` acts on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.orm import Session

from server import background
from server.errors import NotFound, UpturnError
from server.rewards.live import live_rewards
from server.section import SettingsError
from server.store.database import BROKEN, Database
from server.store.tables import PolicyVersionRow, PromotionRow
from server.training.regression import compare, min_pairs_to_detect, summary
from server.training.settings import CanarySettings, WatchSettings
from server.versions import ledger
from server.versions.champion import Champions
from server.versions.routing import Pointers
from upturn.wire import LiveEvidence

log = logging.getLogger("upturn.watch")
T = TypeVar("T")
MIN_PAUSE_S, MAX_PAUSE_S = 2.0, 30.0  # Pause between two checks.
MAX_LOAD = 0.05  # Share of the time that checks may take, up to the longest pause.


@dataclass(frozen=True, slots=True)
class Watched:
    """A watched promotion and the rewards since."""

    row_id: int
    """Its row in the ledger."""
    pinned: bool
    """The promoted version must not be rolled back."""
    evidence: LiveEvidence


class LiveWatch:
    """Compares live rewards of champion and predecessor, or of canary and champion, and acts on the result."""

    def __init__(
        self,
        watch: WatchSettings,
        canary: CanarySettings,
        *,
        database: Database,
        champions: Champions,
        pointers: Pointers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rule = watch
        self._canary = canary
        self._database = database
        self._champions = champions
        self._pointers = pointers
        self.clock = clock
        self._before: tuple[int, list[float]] = -1, []
        """A promotion's row, and the rewards of the previous champion before it, which no longer change."""
        self._passed = -1
        """Row of the last promotion that passed its whole window: its verdict is final."""
        self._last_logged: str | None = None
        """The last message about a version that cannot be rolled back, logged once."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start watching in the background."""
        self._task = asyncio.create_task(self._check_repeatedly())

    async def close(self) -> None:
        """Stop; the next start continues from the recorded rewards."""
        await background.end(self._task)

    async def check(self) -> None:
        """Run one interim analysis of the canary, if there is one, and one of the champion."""
        canary = await asyncio.to_thread(self._read, ledger.canary)
        if canary is not None and not self._pointers.shared:
            await self._check_canary(canary)
        if self._rule.enabled:
            await self._check_champion()

    async def _check_repeatedly(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.check()
            except (*BROKEN, UpturnError) as error:
                log.error("the watch cannot act, retrying: %s", error)
            except Exception:
                log.exception("the watch cannot act, retrying")
            await asyncio.sleep(min(MAX_PAUSE_S, max(MIN_PAUSE_S, (time.monotonic() - began) / MAX_LOAD)))

    async def _check_champion(self) -> None:
        """Roll the champion back if it earns less than the previous one."""
        watched = await asyncio.to_thread(self._read, self._since_promotion)
        if watched is None or not watched.evidence.worse or self._pointers.champion != watched.evidence.now.version:
            return
        reason = summary(watched.evidence)
        finding = f"version {watched.evidence.now.version} earns less, {reason}"
        if watched.pinned:
            self._log_once(f"{finding}; it stays because it is pinned")
            return
        try:
            await self._champions.take_back(watched.row_id, watched.evidence, reason)
        except NotFound as error:
            self._log_once(f"{finding}; it cannot be rolled back: {error}")

    def _since_promotion(self, session: Session) -> Watched | None:
        """Return the champion's rewards since its promotion, compared; None if it is not watched or has too few."""
        row, rule = ledger.approval(session), self._rule
        if row.action != "promote" or row.from_version in (None, row.to_version) or row.id == self._passed:
            return None
        assert row.from_version is not None
        now = live_rewards(session, row.to_version, rule.window, opened_from=row.created_at)
        if len(now) < rule.min_episodes:
            return None
        if self._before[0] != row.id:
            self._before = row.id, live_rewards(session, row.from_version, rule.window, known_before=row.created_at)
        evidence = compare(rule, (row.from_version, self._before[1]), (row.to_version, now))
        if len(now) == rule.window and (evidence is None or not evidence.worse):
            self._passed = row.id
        if evidence is None:
            return None
        return Watched(row.id, session.get_one(PolicyVersionRow, row.to_version).pinned, evidence)

    async def _check_canary(self, row: PromotionRow) -> None:
        """Promote or reject the canary once its rewards or its time are enough."""
        assert row.from_version is not None
        promote, reason, evidence = await asyncio.to_thread(
            self._read, lambda session: self._judge_canary(session, row)
        )
        if promote is not None:
            await self._champions.settle_canary(
                row.id, row.from_version, promote=promote, reason=reason, evidence=evidence
            )

    def _judge_canary(self, session: Session, row: PromotionRow) -> tuple[bool | None, str, LiveEvidence | None]:
        """Return whether to promote the canary, None while that is undecided, with the reason and the evidence."""
        candidate, champion = row.from_version, row.to_version
        assert candidate is not None
        if session.get_one(PolicyVersionRow, candidate).state != "ready":
            return False, "its weights have been deleted", None
        if self._canary.share == 0:
            return True, "the settings no longer ask for a canary", None
        least = self._canary.min_episodes
        rule = self._rule.model_copy(
            update={"window": max(self._rule.window, least), "min_episodes": min(self._rule.min_episodes, least)}
        )
        before = live_rewards(session, champion, rule.window, opened_from=row.created_at)
        now = live_rewards(session, candidate, rule.window, opened_from=row.created_at)
        evidence = compare(rule, (champion, before), (candidate, now))
        if evidence is not None and evidence.worse:
            return False, summary(evidence), evidence
        if evidence is not None and evidence.now.episodes >= least:
            return True, summary(evidence), evidence
        if self.clock() - row.created_at >= 3600 * self._canary.max_hours:
            count = f"{min(len(before), len(now))} rewarded episodes of each within {self._canary.max_hours:g} hours"
            return True, count if evidence is None else f"{count}; {summary(evidence)}", evidence
        return None, "", None

    def _log_once(self, message: str) -> None:
        if message != self._last_logged:
            log.error("%s", message)
            self._last_logged = message

    def _read(self, query: Callable[[Session], T]) -> T:
        with self._database.read() as session:
            return query(session)


def check_settings(watch: WatchSettings, canary: CanarySettings) -> None:
    """Refuse settings with which even the largest possible fall of rewards would not be detected.

    Raises:
        SettingsError: `watch.window` or `canary.min_episodes` is too small.
    """
    least = min_pairs_to_detect(watch)
    for name, wanted, episodes in (
        ("watch.window", watch.enabled, watch.window),
        ("canary.min_episodes", canary.share > 0, canary.min_episodes),
    ):
        if wanted and (least is None or episodes < least):
            needed = "no number of episodes is enough" if least is None else f"it takes {least}"
            raise SettingsError(
                f"{name} = {episodes} episodes are too few to detect that a version is worse, even if it always earns "
                f"watch.low and the other always watch.high: {needed} with watch.alpha = {watch.alpha:g} and "
                f"watch.min_drop = {watch.min_drop:g}"
            )
