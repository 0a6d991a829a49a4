"""Reward sources and their rules, set by the settings and overridden by the API.

How a rule changes an episode's reward is in `rules.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.errors import NotFound
from server.rewards.rules import OTHERS, read_rules, rule_of
from server.rewards.settings import RewardSettings
from server.store.database import Database
from server.store.tables import RewardRow, RewardSourceRow
from server.store.writer import Writer
from upturn.wire import RewardRule, RewardSourceView

log = logging.getLogger("upturn.rewards")


class RewardSources:
    """Lists the sources and changes their rules."""

    def __init__(
        self,
        settings: RewardSettings,
        database: Database,
        writer: Writer,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect the parts.

        Args:
            settings: the rules of the settings.
            database: the database to read.
            writer: its one writer.
            on_change: called when a rule has changed, and so the rewards of many episodes.
        """
        others = RewardRule(weight=settings.default_weight, cap=settings.default_cap)
        self._configured = {OTHERS: others, **settings.sources}
        self._database = database
        self._writer = writer
        self._on_change = on_change

    async def start(self) -> None:
        """Store the settings' rules, except for sources whose rule was set by API."""

        def store(session: Session) -> None:
            session.execute(sa.delete(RewardSourceRow).where(RewardSourceRow.set_by == "settings"))
            for name in self._configured.keys() - set(session.scalars(sa.select(RewardSourceRow.name))):
                session.add(self._of_settings(name))

        try:
            await self._writer.write(store)
        except sa.exc.IntegrityError:  # Another server, starting at the same time, wrote the same rows.
            await self._writer.write(store)

    async def set(self, name: str, change: RewardRule, by: str) -> RewardSourceView:
        """Change the given fields of a source's rule. Also applies to existing rewards, from the next read on."""

        def write(session: Session) -> RewardRule:
            row = session.get(RewardSourceRow, name)
            now = rule_of(row) if row is not None else read_rules(session).of(name)
            rule = now.model_copy(update={field: getattr(change, field) for field in change.model_fields_set})
            session.merge(
                RewardSourceRow(
                    name=name,
                    set_by="api",
                    changed_at=time.time(),
                    weight=rule.weight,
                    cap=rule.cap,
                    blocked=rule.blocked,
                )
            )
            return rule

        try:
            rule = await self._writer.write(write)
        except sa.exc.IntegrityError:  # Another server inserted the row at the same time.
            rule = await self._writer.write(write)
        self._on_change()
        log.info("%r set the rule of reward source %r: %s", by, name, rule)
        return (await asyncio.to_thread(self._views, name))[0]

    async def remove(self, name: str, by: str) -> None:
        """Remove a rule that was set by API. The settings' rule applies again, or the rule of `*`.

        Raises:
            NotFound: no rule of this source was set by API.
        """

        def delete(session: Session) -> None:
            row = session.get(RewardSourceRow, name)
            if row is None or row.set_by != "api":
                raise NotFound(f"reward source {name!r} has no rule set by API", code="reward_source_not_found")
            session.delete(row)
            session.flush()
            if name in self._configured:
                session.add(self._of_settings(name))

        await self._writer.write(delete)
        self._on_change()
        log.info("%r removed the rule of reward source %r", by, name)

    async def views(self) -> list[RewardSourceView]:
        """Return all sources, sorted by name."""
        return await asyncio.to_thread(self._views)

    def _views(self, only: str | None = None) -> list[RewardSourceView]:
        counts = sa.select(RewardRow.source, sa.func.count(), sa.func.avg(RewardRow.value)).group_by(RewardRow.source)
        with self._database.read() as session:
            rules = read_rules(session)
            own = {row.name: row.set_by for row in session.scalars(sa.select(RewardSourceRow))}
            totals = {
                source: (count, mean)
                for source, count, mean in session.execute(
                    counts if only is None else counts.where(RewardRow.source == only)
                )
            }
        return [
            RewardSourceView(
                name=name,
                set_by=own.get(name),  # type: ignore[arg-type]
                count=totals.get(name, (0, None))[0],
                mean=totals.get(name, (0, None))[1],
                **rules.of(name).model_dump(),
            )
            for name in ([only] if only is not None else sorted({*own, *totals}))
        ]

    def _of_settings(self, name: str) -> RewardSourceRow:
        rule = self._configured[name]
        return RewardSourceRow(
            name=name, weight=rule.weight, cap=rule.cap, blocked=rule.blocked, set_by="settings", changed_at=time.time()
        )
