"""An episode's counters, and its end: once, also when ends come together or a write fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from server.errors import Conflict, HorizonReached, Unavailable
from server.recording.episode import Episode
from server.recording.episodes import Episodes
from server.recording.idle import IDLE, Ended, read_ended
from server.store.tables import EpisodeRow
from server.wiring.parts import Parts
from tests.support.in_process import opened, rows, running
from tests.support.live import settings_for
from upturn.wire import EpisodeOpen


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with running(settings_for(tmp_path / "data")) as made:
        yield made


def episode(**more: Any) -> Episode:
    return Episode("ep", None, None, 0, 2, 0, "other", True, **more)


def test_answers_are_numbered_and_turns_counted_up_to_the_horizon() -> None:
    one = episode()
    assert (one.turns_left, list(one.begin_turn(3)), one.turns_left) == (2, [0, 1, 2], 1)
    assert (list(one.begin_turn()), one.turns_left, one.turns) == ([3], 0, 2)
    with pytest.raises(HorizonReached, match="has used its 2 turns"):
        one.begin_turn()
    assert (one.turns, one.next_index, one.turns_left) == (2, 4, 0)


@pytest.mark.parametrize(("turns", "steps", "left"), [(0, 0, 2), (1, 0, 1), (0, 1, 1), (1, 2, 0), (3, 0, 0), (0, 3, 0)])
def test_turns_left_are_those_of_the_larger_counter_and_never_negative(turns: int, steps: int, left: int) -> None:
    assert episode(turns=turns, steps=steps).turns_left == left


async def test_no_turn_begins_in_an_episode_that_has_ended_or_is_ending() -> None:
    ending = episode(ending=asyncio.get_running_loop().create_future())
    for one, says in ((episode(ended="closed"), "has ended"), (ending, "is ending")):
        with pytest.raises(Conflict, match=says) as refused:
            one.begin_turn()
        assert refused.value.code == "episode_ended" and (one.turns, one.next_index) == (0, 0)


async def test_an_episode_that_ends_before_its_first_turn_is_recorded(parts: Parts) -> None:
    one, _ = await parts.episodes.open(EpisodeOpen(), policy_version=0, horizon=2)
    assert not rows(parts, EpisodeRow)
    await parts.episodes.end(one, "closed", reason="enough")
    (row,) = rows(parts, EpisodeRow)
    assert (row.status, row.reason) == ("closed", "enough") and row.closed_at >= row.opened_at


async def test_the_first_of_several_ends_counts_and_is_reported_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(parts.episodes, "_on_end", lambda *of: reported.append(of))
    released: list[str] = []
    parts.episodes.when_ended.append(released.append)
    one = await opened(parts)
    await asyncio.gather(
        parts.episodes.end(one, "terminated", success=True),
        parts.episodes.end(one, "error", error_class="Broken"),
        parts.episodes.end(one, "closed"),
    )
    await parts.episodes.end(one, "closed")
    (row,) = rows(parts, EpisodeRow)
    assert (row.status, row.success, row.error_class, one.ended) == ("terminated", True, None, "terminated")
    assert reported == [("terminated", None)] and released == [one.id]


async def test_an_end_that_could_not_be_written_leaves_the_episode_open(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await opened(parts)

    async def write(work: Any) -> Any:
        raise Unavailable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(parts.writer, "write", write)
        with pytest.raises(Unavailable):
            await parts.episodes.end(one, "closed")
        with pytest.raises(Unavailable):
            await parts.episodes.never_train(one)
    assert (one.ended, one.ending, one.trainable) == (None, None, True)
    assert await parts.episodes.get(one.id) is one
    await parts.episodes.never_train(one)
    await parts.episodes.end(one, "closed")
    (row,) = rows(parts, EpisodeRow)
    assert (row.status, row.trainable) == ("closed", False)


async def test_a_canceled_caller_does_not_cancel_the_end(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    one, go, real = await opened(parts), asyncio.Event(), parts.writer.write

    async def write(work: Any) -> Any:
        await go.wait()
        return await real(work)

    monkeypatch.setattr(parts.writer, "write", write)
    ending = asyncio.create_task(parts.episodes.end(one, "closed"))
    while one.ending is None:
        await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    with pytest.raises(Conflict, match="is ending"):
        await parts.episodes.get(one.id)
    go.set()
    await asyncio.wait([one.ending])
    assert rows(parts, EpisodeRow)[0].status == "closed"


async def test_only_idle_episodes_without_an_environment_leave_the_memory(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.recording.episodes.KEPT_IN_MEMORY", 3)
    episodes: Episodes = parts.episodes
    played, _ = await episodes.open(EpisodeOpen(environment="e", task="t"), policy_version=0, horizon=2)
    answering, idle = await opened(parts), (await opened(parts)).id
    answering.answering["d"] = []
    answering.answering["d"].append(None)  # type: ignore[arg-type]
    newest = [await opened(parts) for _ in range(2)]
    assert set(episodes._open) == {played.id, answering.id, newest[1].id}
    assert idle not in episodes._held and (await episodes.get(idle)).id == idle


async def test_an_evaluation_and_an_opt_out_are_not_trainable(parts: Parts) -> None:
    for wanted, purpose, trainable in ((True, "other", True), (False, "other", False), (True, "evaluation", False)):
        one, _ = await parts.episodes.open(EpisodeOpen(trainable=wanted), policy_version=0, horizon=1, purpose=purpose)
        await one.opened()
        assert one.trainable is trainable
        (row,) = rows(parts, EpisodeRow, EpisodeRow.id == one.id)
        assert row.trainable is trainable


async def test_after_a_restart_only_episodes_with_an_environment_are_closed(parts: Parts) -> None:
    plain = await opened(parts)
    played, _ = await parts.episodes.open(EpisodeOpen(environment="e", task="t"), policy_version=0, horizon=2)
    await played.opened()
    assert await parts.episodes.fail_interrupted() == 1
    by_id = {row.id: row for row in rows(parts, EpisodeRow)}
    assert by_id[plain.id].status == "open"
    row = by_id[played.id]
    assert (row.status, row.trainable, row.reason) == ("closed", False, "the server restarted")


@pytest.mark.parametrize(("reason", "idle"), [(IDLE, True), ("enough", False), (None, False)])
async def test_what_a_new_episode_takes_on_is_read_from_an_ended_one_until_that_is_erased(
    parts: Parts, reason: str | None, idle: bool
) -> None:
    one, _ = await parts.episodes.open(
        EpisodeOpen(metadata={"a": 1}, trainable=False), policy_version=0, horizon=7, owner_hash="me"
    )
    await parts.episodes.end(one, "closed", reason=reason)
    ended = read_ended(parts.database, one.id)
    assert ended == Ended("me", trainable=False, horizon=7, metadata={"a": 1}, idle=idle, successor=None)
    next_one, _ = await parts.episodes.open(EpisodeOpen(), policy_version=0, horizon=7, continues=one.id)
    await next_one.opened()
    ended = read_ended(parts.database, one.id)
    assert ended is not None and ended.successor == next_one.id
    await parts.privacy.erase(one.id)
    assert read_ended(parts.database, one.id) is None
    assert read_ended(parts.database, "ep_never") is None


async def test_an_episode_that_failed_was_not_silent(parts: Parts) -> None:
    one = await opened(parts)
    await parts.episodes.end(one, "error", reason=IDLE, error_class="Broken")
    ended = read_ended(parts.database, one.id)
    assert ended is not None and not ended.idle
