"""After a failed write or a crash, memory, engine and database tell the same story."""

from __future__ import annotations

import itertools
import math
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from env_adapters import environment_spec
from env_adapters.hosting.instances import plain
from env_adapters.protocol import LARGEST_REWARD, EnvironmentFailure, Transition
from server.errors import Unavailable
from server.store.tables import PolicyVersionRow
from server.store.writer import Writer
from server.versions import rows
from tests.support.live import Live, script, serving, settings_for
from tests.support.runs.live_rewards import new_version, promoted
from tests.support.runs.scripted import claim, lease, publication, reward_two, says
from upturn import wire
from upturn.client import UpturnAPIError
from upturn.wire import EpisodeOpen


class DiskFull(Unavailable):
    """A failure of the database that the client does not repeat by itself."""

    status_code = 500


class FailingWriter:
    """The server's writer, whose n-th write from now fails before or after it is done."""

    def __init__(
        self, writer: Writer, nth: int, *, done: bool = False, at: Callable[[int], None] = lambda _: None
    ) -> None:
        self._writer, self._nth, self._done, self._at = writer, nth, done, at
        self._count = itertools.count()

    async def write(self, work: Any) -> Any:
        number = next(self._count)
        self._at(number)
        if number != self._nth:
            return await self._writer.write(work)
        if self._done:
            await self._writer.write(work)
        raise DiskFull("the disk is full")


def story(live: Live) -> tuple[int, int, str]:
    """Return champion, head and the answer of the engine, after comparing them with the record."""
    pointers = live.parts.pointers
    with live.parts.database.read() as session:
        champion, head = rows.champion_and_head(session)
    assert (champion.version, head.version) == (pointers.champion, pointers.head)
    text, model = says(live)
    assert model == f"policy@{pointers.champion}"
    return pointers.champion, pointers.head, text


@pytest.mark.parametrize("nth", [0, 1])
def test_a_version_whose_record_fails_does_not_serve_and_can_be_published_again(tmp_path: Path, nth: int) -> None:
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "base")))) as live:
        reward_two(live)
        run = claim(live)
        lease(live, run)
        request, writer = publication(live, run, "new"), live.parts.serving.writer
        live.parts.serving.writer = FailingWriter(writer, nth)  # type: ignore[assignment]
        with pytest.raises(UpturnAPIError, match="full"):
            live.client.publish(request)
        live.parts.serving.writer = writer
        assert story(live) == (0, 0, "base")
        published = live.client.publish(request)
        assert published.head and story(live) == (published.version, published.version, "new")


def test_a_version_whose_record_was_done_though_it_was_reported_as_failed_serves_when_published_again(
    tmp_path: Path,
) -> None:
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "base")))) as live:
        reward_two(live)
        run = claim(live)
        lease(live, run)
        request, writer = publication(live, run, "new"), live.parts.serving.writer
        # The refusal that follows cannot be written either.
        live.parts.serving.writer = FailingWriter(FailingWriter(writer, 2), 1, done=True)  # type: ignore[assignment, arg-type]
        with pytest.raises(UpturnAPIError, match="full"):
            live.client.publish(request)
        live.parts.serving.writer = writer
        published = live.client.publish(request)
        assert story(live) == (published.version, published.version, "new")


def test_a_promotion_whose_record_fails_changes_neither_engine_nor_pointers(tmp_path: Path) -> None:
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "base")))) as live:
        version = new_version(live, "new", kind="full")
        writer = live.parts.serving.writer
        live.parts.serving.writer = FailingWriter(writer, 0)  # type: ignore[assignment]
        with pytest.raises(UpturnAPIError, match="full"):
            live.client.rollback()
        live.parts.serving.writer = writer
        assert story(live) == (version, version, "new")


def test_a_server_killed_at_any_point_of_a_publication_or_promotion_serves_what_it_recorded(tmp_path: Path) -> None:
    data, moments = tmp_path / "data", []

    def copied(number: int) -> None:
        """Keep the database as a kill would leave it now."""
        copy = tmp_path / f"killed-{len(moments)}"
        shutil.copytree(data, copy, ignore=shutil.ignore_patterns("*.db*", "*.lock"))
        source, target = sqlite3.connect(data / "upturn.db"), sqlite3.connect(copy / "upturn.db")
        source.backup(target)
        source.close()
        target.close()
        moments.append(copy)

    model = script(tmp_path / "script", "base")
    with serving(settings_for(data, model=str(model), weights="adapter")) as live:
        live.parts.serving.writer = FailingWriter(live.parts.serving.writer, -1, at=copied)  # type: ignore[assignment]
        promoted(live, "first")
        copied(0)
    assert len(moments) >= 4
    seen = []
    for copy in moments:
        with serving(settings_for(copy, model=str(model), weights="adapter")) as live:
            seen.append(story(live))
            with live.parts.database.read() as session:
                assert "loading" not in set(session.scalars(sa.select(PolicyVersionRow.state)))
    assert seen[0] == (0, 0, "base") and seen[-1] == (1, 1, "first") and seen == sorted(seen)


def test_an_episode_whose_end_cannot_be_written_stays_open_and_ends_later(tmp_path: Path) -> None:
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Hi")))) as live:
        task = environment_spec("textcraft").tasks("train")[0]
        opened = live.client.open_episode(EpisodeOpen(environment="textcraft", task=task))
        episodes, writer = live.parts.episodes, live.parts.writer
        episodes._writer = FailingWriter(writer, 0)  # type: ignore[assignment]
        with pytest.raises(UpturnAPIError, match="full"):
            live.client.close_episode(opened.id)
        assert live.client.episode(opened.id).status == "open"
        assert live.client.step(opened.id, "inventory").valid, "its environment still acts"
        assert live.client.close_episode(opened.id).status == "closed"


def test_an_episode_never_ends_before_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(settings_for(tmp_path / "data", model=str(script(tmp_path / "script", "Hi")))) as live:
        opened, now = live.client.open_episode(EpisodeOpen()), time.time
        monkeypatch.setattr("server.recording.episodes.time.time", lambda: now() - 3600)  # The clock is set back.
        closed = live.client.close_episode(opened.id)
        monkeypatch.undo()
        assert closed.closed_at is not None and closed.closed_at >= closed.opened_at


@pytest.mark.parametrize("reward", [1e300, -1.1e6, math.nan, math.inf, -math.inf, "much", None, 10**400])
def test_a_reward_that_is_no_number_within_the_bound_is_a_failure_of_the_environment(reward: Any) -> None:
    with pytest.raises(EnvironmentFailure, match="the reward"):
        plain(Transition("seen", reward, False))


def test_every_reward_has_the_same_bound() -> None:
    assert LARGEST_REWARD == wire.LARGEST_REWARD
    assert plain(Transition("seen", -LARGEST_REWARD, False)).reward == -LARGEST_REWARD
