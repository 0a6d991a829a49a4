"""The live-reward watch: roll back a promoted version that earns less, and decide on a canary (step 14).

The ledger names the watched rows: the row that approved the champion if it is a promotion, and the newest row if it is
a canary. Every few seconds the episodes since then that have become mature are read (`arms.py`), and all are compared
from the first one, so a restart loses nothing. `regression.py` and `canary.py` decide what counts as worse,
`server/versions/champion.py` acts on it.
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
from server.rewards.delays import HOUR_S
from server.rewards.rules import read_rules
from server.section import SettingsError
from server.store.database import BROKEN, Database
from server.store.tables import PolicyVersionRow, PromotionRow
from server.training.arms import Promoted, Tried
from server.training.canary import judge, min_episodes_to_detect
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
        self._promoted: Promoted | None = None
        """The watched promotion."""
        self._tried: Tried | None = None
        """The canary in progress."""
        self._passed: Promoted | None = None
        """The last promotion whose comparison has ended: its verdict is final."""
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
        row = ledger.approval(session)
        if row.action != "promote" or row.from_version in (None, row.to_version):
            return None
        assert row.from_version is not None
        promoted = self._promoted
        if promoted is None or promoted.row_id != row.id or promoted.rules != read_rules(session):
            promoted = self._promoted = Promoted.begin(session, row, self._rule)
            if 0 < len(promoted.before) < self._rule.min_episodes:
                log.info("version %d has no watch: %s", row.to_version, _too_few(promoted, row.from_version))
        if promoted is self._passed:
            return None
        now = [reward.reward for reward in promoted.now.read(session, self.clock())]
        evidence = compare(promoted.rule, (row.from_version, promoted.before), (row.to_version, now))
        if evidence is not None and evidence.worse:
            return Watched(row.id, session.get_one(PolicyVersionRow, row.to_version).pinned, evidence)
        if len(promoted.before) < self._rule.min_episodes or len(now) >= min(self._rule.window, len(promoted.before)):
            self._passed = promoted
        return None if evidence is None else Watched(row.id, False, evidence)

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
        tried = self._tried
        if tried is None or tried.row_id != row.id or tried.rules != read_rules(session):
            tried = self._tried = Tried.begin(session, row, self._rule, self._canary, self._pointers)
        now = self.clock()
        arms = (champion, tried.champion.read(session, now)), (candidate, tried.candidate.read(session, now))
        decision = judge(tried.rule, self._canary, *arms, tried.earlier)
        if decision.promote is not None and decision.evidence is not None:
            return decision.promote, summary(decision.evidence), decision.evidence
        if now - row.created_at >= HOUR_S * self._canary.max_hours:
            fewest = min(decision.champion, decision.candidate)
            reason = f"{fewest} rewarded episodes of each within {self._canary.max_hours:g} hours"
            if tried.earlier is not None and not tried.earlier:
                reason += "; no API key has rewarded episodes before the canary"
            if decision.evidence is not None:
                reason += f"; {summary(decision.evidence)}"
            return True, reason, decision.evidence
        return None, "", None

    def _log_once(self, message: str) -> None:
        if message != self._last_logged:
            log.error("%s", message)
            self._last_logged = message

    def _read(self, query: Callable[[Session], T]) -> T:
        with self._database.read() as session:
            return query(session)


def _too_few(promoted: Promoted, version: int) -> str:
    return (
        f"version {version} has {len(promoted.before)} rewarded episodes from before the promotion, "
        f"watch.min_episodes = {promoted.rule.min_episodes}"
    )


def check_settings(watch: WatchSettings, canary: CanarySettings) -> None:
    """Refuse settings with which even the largest possible fall of rewards would not be detected.

    Raises:
        SettingsError: `watch.window`, `canary.min_episodes`, or `canary.max_hours` is too small.
    """
    if canary.share > 0 and watch.maturity_h is not None and watch.maturity_h >= canary.max_hours:
        raise SettingsError(
            f"canary.max_hours = {canary.max_hours:g} hours end before a reward is read, at the age "
            f"watch.maturity_h = {watch.maturity_h:g}"
        )
    for name, least, episodes in (
        ("watch.window", min_pairs_to_detect(watch) if watch.enabled else 0, watch.window),
        ("canary.min_episodes", min_episodes_to_detect(watch, canary) if canary.share > 0 else 0, canary.min_episodes),
    ):
        if least is None or episodes < least:
            needed = "no number of episodes is enough" if least is None else f"it takes {least}"
            raise SettingsError(
                f"{name} = {episodes} episodes are too few to detect that a version is worse, even if it always earns "
                f"watch.low and the other always watch.high: {needed} with watch.alpha = {watch.alpha:g} and "
                f"watch.min_drop = {watch.min_drop:g}"
            )
