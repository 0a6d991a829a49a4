"""Live traffic has the last word: a promoted version that earns less is taken back, a canary is decided on (step 13).

What is watched stands in the ledger: the row that made the champion what it is, while that is a promotion, and the
newest row, while that is a canary. Every few seconds the rewards are read again and compared again from the first one,
so a restart loses nothing. What counts as worse is `regression.py`, who acts on it `server/versions/swap.py`.
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
from server.training.regression import compare, fewest, said
from server.training.settings import CanarySettings, WatchSettings
from server.versions import ledger
from server.versions.routing import Pointers
from server.versions.swap import Swap
from upturn.wire import LiveEvidence

log = logging.getLogger("upturn.watch")
T = TypeVar("T")
LOOK_S, LONGEST_S = 2.0, 30.0  # Pause between two looks.
LOAD = 0.05  # Share of the time that looking may take, where there are very many episodes.


@dataclass(frozen=True, slots=True)
class Watched:
    """A promotion, and what has come of it."""

    row_id: int
    pinned: bool
    evidence: LiveEvidence


class LiveWatch:
    """Compares live rewards, and has the swap act on them."""

    def __init__(
        self,
        watch: WatchSettings,
        canary: CanarySettings,
        *,
        database: Database,
        swap: Swap,
        pointers: Pointers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rule = watch
        self._canary = canary
        self._database = database
        self._swap = swap
        self._pointers = pointers
        self.clock = clock
        self._before: tuple[int, list[float]] = -1, []
        """What the champion before a promotion had earned, by the promotion's row: it does not change any more."""
        self._passed = -1
        """The promotion that has stood the whole window: nothing more can come of it."""
        self._told: str | None = None
        """What the log has last said of a version that cannot be taken back."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Stop; the next start goes on with the same figures."""
        await background.end(self._task)

    async def check(self) -> None:
        """Look once: at the canary, else at the champion."""
        canary = await asyncio.to_thread(self._read, ledger.canary)
        if canary is not None and not self._pointers.shared:
            await self._try(canary)
        if self._rule.enabled:
            await self._watch()

    async def _look(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.check()
            except (*BROKEN, UpturnError) as error:
                log.error("the watch cannot act, and tries again: %s", error)
            except Exception:
                log.exception("the watch cannot act, and tries again")
            await asyncio.sleep(min(LONGEST_S, max(LOOK_S, (time.monotonic() - began) / LOAD)))

    async def _watch(self) -> None:
        """Take the champion back where it earns less than the one before."""
        found = await asyncio.to_thread(self._read, self._since_promotion)
        if found is None or not found.evidence.worse or self._pointers.champion != found.evidence.now.version:
            return
        what = f"version {found.evidence.now.version} earns less, {said(found.evidence)}"
        if found.pinned:
            self._tell(f"{what}; it is pinned, and stays")
            return
        try:
            await self._swap.take_back(found.row_id, found.evidence, said(found.evidence))
        except NotFound as error:
            self._tell(f"{what}; it cannot be taken back: {error}")

    def _since_promotion(self, session: Session) -> Watched | None:
        """Return what the champion has earned since its promotion; None where nothing is watched or to be told yet."""
        row, rule = ledger.standing(session), self._rule
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

    async def _try(self, row: PromotionRow) -> None:
        """Decide on the canary, where there is enough to decide on."""
        assert row.from_version is not None
        promote, reason, evidence = await asyncio.to_thread(self._read, lambda session: self._tried(session, row))
        if promote is not None:
            await self._swap.end_canary(row.id, row.from_version, promote=promote, reason=reason, evidence=evidence)

    def _tried(self, session: Session, row: PromotionRow) -> tuple[bool | None, str, LiveEvidence | None]:
        """Return whether the canary is to be promoted, None where that is open, and why."""
        candidate, champion = row.from_version, row.to_version
        assert candidate is not None
        if session.get_one(PolicyVersionRow, candidate).state != "ready":
            return False, "its weights are gone", None
        if self._canary.share == 0:
            return True, "the settings want no canary any more", None
        least = self._canary.min_episodes
        rule = self._rule.model_copy(
            update={"window": max(self._rule.window, least), "min_episodes": min(self._rule.min_episodes, least)}
        )
        before = live_rewards(session, champion, rule.window, opened_from=row.created_at)
        now = live_rewards(session, candidate, rule.window, opened_from=row.created_at)
        evidence = compare(rule, (champion, before), (candidate, now))
        if evidence is not None and evidence.worse:
            return False, said(evidence), evidence
        if evidence is not None and evidence.now.episodes >= least:
            return True, said(evidence), evidence
        if self.clock() - row.created_at >= 3600 * self._canary.max_hours:
            few = f"{min(len(before), len(now))} rewarded episodes of each within {self._canary.max_hours:g} hours"
            return True, few if evidence is None else f"{few}; {said(evidence)}", evidence
        return None, "", None

    def _tell(self, what: str) -> None:
        if what != self._told:
            log.error("%s", what)
            self._told = what

    def _read(self, query: Callable[[Session], T]) -> T:
        with self._database.read() as session:
            return query(session)


def check_settings(watch: WatchSettings, canary: CanarySettings) -> None:
    """Raise SettingsError where one that earns the least there is could not be told from one that earns the most."""
    least = fewest(watch)
    for name, wanted, episodes in (
        ("watch.window", watch.enabled, watch.window),
        ("canary.min_episodes", canary.share > 0, canary.min_episodes),
    ):
        if wanted and (least is None or episodes < least):
            needed = "no number of episodes is enough" if least is None else f"it takes {least}"
            raise SettingsError(
                f"{name} = {episodes} is too few to find out that a version is worse, even if it "
                f"always earns watch.low where the other earns watch.high: {needed} with watch.alpha = "
                f"{watch.alpha:g} and watch.min_drop = {watch.min_drop:g}"
            )
