"""Changes of the champion: the ledger, and changes that come together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from server.errors import Conflict, NotFound, Unavailable
from server.store.database import id_at
from server.store.tables import PolicyVersionRow, PromotionRow, RunRow
from server.training.live_watch import LiveWatch
from server.training.settings import CanarySettings, WatchSettings
from server.versions import ledger
from server.wiring.parts import Parts
from tests.support.in_process import publication, queued, rows, running, settled
from tests.support.live import script, settings_for
from tests.support.runs.matured import Matured
from upturn.wire import GateEvidence, LiveEvidence, LiveFigures, RewardRule

HOUR_S = 3600.0


@pytest.fixture(params=["full", "adapter"])
async def parts(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Parts]:
    model = script(tmp_path / "script", "base")
    async with running(settings_for(tmp_path / "data", model=str(model), weights=request.param)) as made:
        yield made


@pytest.fixture
async def adapters(tmp_path: Path) -> AsyncIterator[Parts]:
    """With adapters, and a canary."""
    model = script(tmp_path / "script", "base")
    settings = settings_for(
        tmp_path / "data", model=str(model), weights="adapter", canary=CanarySettings(share=0.5, max_hours=24)
    )
    async with running(settings) as made:
        yield made


async def publish(parts: Parts, *answers: str) -> str:
    """Publish a version for each answer; return the id of their run."""
    run = await queued(parts)
    for step, answer in enumerate(answers):
        await parts.publisher.publish(publication(parts, answer, run.id, step))
    return run.id


def ledger_of(parts: Parts) -> list[tuple[int | None, int, str]]:
    return [(row.from_version, row.to_version, row.action) for row in rows(parts, PromotionRow)]


def evidence(promoted: bool = True, champion: int = 0, candidate: int = 1) -> GateEvidence:
    return GateEvidence(
        champion=champion,
        candidate=candidate,
        horizon=1,
        method="m",
        gain=None,
        environments={},
        metrics={},
        rule={},
        objections=[] if promoted else ["it is worse"],
        promoted=promoted,
    )


async def test_a_rollback_after_promoting_the_champion_again_leads_to_the_one_before(parts: Parts) -> None:
    await publish(parts, "one", "two")
    if not parts.pointers.shared:
        await parts.champions.promote(1, by="me")
    for _ in range(2):
        await parts.champions.promote(2, by="me")
    assert parts.pointers.champion == 2
    await parts.champions.promote(2, by="me")
    assert (await parts.champions.rollback(by="me")).version == 1
    assert parts.pointers.champion == 1
    assert (await parts.champions.rollback(by="me")).version == 0
    with pytest.raises(Conflict, match="no earlier champion") as refused:
        await parts.champions.rollback(by="me")
    assert refused.value.code == "no_earlier_champion" and parts.pointers.champion == 0


async def test_a_version_that_does_not_exist_changes_nothing(parts: Parts) -> None:
    await publish(parts, "one")
    before = ledger_of(parts), parts.pointers.champion, parts.pointers.head
    for version in (7, -1):
        with pytest.raises(NotFound):
            await parts.champions.promote(version, by="me")
        with pytest.raises(NotFound):
            await parts.champions.pin(version, True)
    assert (ledger_of(parts), parts.pointers.champion, parts.pointers.head) == before


async def test_a_promotion_that_could_not_be_recorded_leaves_the_champion_in_the_engine(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(parts, "one", "two")
    champion, versions = parts.pointers.champion, parts.engine.versions

    async def write(work: Any) -> Any:
        raise Unavailable("the database is away")

    before = ledger_of(parts)
    with monkeypatch.context() as patch:
        patch.setattr(parts.writer, "write", write)
        with pytest.raises(Unavailable):
            await parts.champions.promote(0 if parts.pointers.shared else 1, by="me")
    assert (parts.pointers.champion, ledger_of(parts)) == (champion, before)
    assert parts.engine.versions == versions if parts.pointers.shared else parts.engine.versions >= versions


async def test_a_version_whose_acceptance_was_done_and_reported_as_failed_serves_when_it_is_published_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = (await queued(parts)).id
    request, real = publication(parts, "one", run_id), parts.writer.write

    async def write(work: Any) -> Any:
        state = rows(parts, PolicyVersionRow)[-1].state
        if state == "ready" and len(rows(parts, PolicyVersionRow)) > 1:
            raise Unavailable("the database is away")
        result = await real(work)
        if state == "loading":
            raise Unavailable("the database went away after the commit")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(parts.writer, "write", write)
        with pytest.raises(Unavailable):
            await parts.publisher.publish(request)
    assert [row.state for row in rows(parts, PolicyVersionRow)] == ["ready", "ready"]
    assert parts.pointers.head == 0 and parts.engine.versions == {0}
    view = await parts.publisher.publish(request)
    assert (view.version, view.loaded, view.head) == (1, True, True)
    assert (parts.pointers.head, parts.pointers.champion) == (1, 1 if parts.pointers.shared else 0)
    assert parts.engine.versions == ({1} if parts.pointers.shared else {0, 1})
    before = ledger_of(parts)
    await parts.publisher.publish(request)
    assert ledger_of(parts) == before and len(rows(parts, PolicyVersionRow)) == 2


async def test_a_version_that_fails_its_check_is_refused_and_the_previous_one_serves(parts: Parts) -> None:
    run_id = (await queued(parts)).id
    good, bad = publication(parts, "one", run_id), publication(parts, "two", run_id, 1)
    await parts.publisher.publish(good)
    with pytest.raises(Conflict, match="the loaded weights are not the trained ones"):
        await parts.publisher.publish(bad.model_copy(update={"probe": good.probe}))
    assert [row.state for row in rows(parts, PolicyVersionRow)] == ["ready", "ready", "failed"]
    assert parts.engine.versions == ({1} if parts.pointers.shared else {0, 1}) and parts.pointers.head == 1
    assert (await parts.publisher.publish(bad)).version == 3, "the refused number stays used"


class SlowLoad:
    """Lets the next load of the engine wait for `go`."""

    def __init__(self, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.go = asyncio.Event(), asyncio.Event()
        real = parts.engine.load

        async def load(weights: Any) -> None:
            if not self.began.is_set():
                self.began.set()
                await self.go.wait()
            await real(weights)

        monkeypatch.setattr(parts.engine, "load", load)


async def _take_back(parts: Parts, run_id: str) -> Any:
    figures = [LiveFigures(version=version, episodes=9, mean_reward=0.0) for version in (0, 1)]
    worse = LiveEvidence(before=figures[0], now=figures[1], e_value=99.0, worse=True, method="m", rule={})
    return await parts.champions.take_back(rows(parts, PromotionRow)[-1].id, worse, "worse")


CHANGES: dict[str, Callable[[Parts, str], Awaitable[Any]]] = {
    "promote": lambda parts, _: parts.champions.promote(1, by="me"),
    "rollback": lambda parts, _: parts.champions.rollback(by="me"),
    "pin": lambda parts, _: parts.champions.pin(1, True),
    "settle": lambda parts, run_id: parts.champions.settle(run_id, evidence(False, champion=1, candidate=1)),
    "take back": _take_back,
}


@pytest.mark.parametrize("change", list(CHANGES))
async def test_a_change_waits_for_a_version_that_is_being_published(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    run_id = await publish(parts, "one")
    if not parts.pointers.shared:
        await parts.champions.promote(1, by="me")
    slow = SlowLoad(parts, monkeypatch)
    publishing = asyncio.create_task(parts.publisher.publish(publication(parts, "two", run_id, 1)))
    await slow.began.wait()
    changing = asyncio.create_task(CHANGES[change](parts, run_id))
    before = ledger_of(parts), rows(parts, PolicyVersionRow)[1].pinned
    await settled(parts)
    assert not changing.done()
    assert (ledger_of(parts), rows(parts, PolicyVersionRow)[1].pinned) == before
    slow.go.set()
    await asyncio.wait([publishing, changing])
    assert publishing.exception() is None and changing.exception() is None
    champion = rows(parts, PromotionRow)[-1].to_version
    assert parts.pointers.champion == champion and champion in parts.engine.versions
    if change == "promote":
        assert champion == 1


async def canary(parts: Parts, run_id: str) -> PromotionRow:
    """Make version 1 the canary."""

    def due(session: Any) -> None:
        session.get_one(RunRow, run_id).gate = "due"

    await parts.writer.write(due)
    await parts.champions.settle(run_id, evidence())
    assert parts.pointers.canary == 1
    return rows(parts, PromotionRow)[-1]


async def test_a_canary_without_rewards_is_promoted_after_exactly_its_hours(adapters: Parts) -> None:
    row = await canary(adapters, await publish(adapters, "one"))
    watch = adapters.watch
    for hours in (0, 1, 23, 23.99):
        watch.clock = lambda hours=hours: row.created_at + hours * HOUR_S  # type: ignore[misc]
        await watch.check()
        assert (adapters.pointers.canary, adapters.pointers.champion) == (1, 0), hours
    watch.clock = lambda: row.created_at + 24 * HOUR_S
    await watch.check()
    assert (adapters.pointers.canary, adapters.pointers.champion) == (None, 1)
    newest = rows(adapters, PromotionRow)[-1]
    assert (newest.action, newest.decided_by, newest.from_version, newest.to_version) == ("promote", "canary", 0, 1)
    assert newest.reason == "0 rewarded episodes of each within 24 hours"
    assert [run.gate for run in rows(adapters, RunRow)] == ["promoted"]


async def test_a_canary_ends_with_its_weights_or_with_its_setting(adapters: Parts) -> None:
    row = await canary(adapters, await publish(adapters, "one"))

    def judged(**settings: float) -> Any:
        watch = LiveWatch(
            WatchSettings(),
            CanarySettings.model_validate(settings),
            database=adapters.database,
            champions=adapters.champions,
            pointers=adapters.pointers,
        )
        return watch._read(lambda session: watch._judge_canary(session, row))

    assert judged(share=0.5)[0] is None
    assert judged(share=0.0) == (True, "the settings no longer ask for a canary", None)

    def retire(session: Any) -> None:
        session.get_one(PolicyVersionRow, 1).state = "retired"

    await adapters.writer.write(retire)
    assert judged(share=0.5) == judged(share=0.0) == (False, "its weights have been deleted", None)


def watch_of(parts: Parts, canary: CanarySettings, clock: Callable[[], float], **watch: Any) -> LiveWatch:
    """Return another watch of the same server."""
    return LiveWatch(
        WatchSettings.model_validate({"maturity_h": 1.0} | watch),
        canary,
        database=parts.database,
        champions=parts.champions,
        pointers=parts.pointers,
        clock=clock,
    )


def drawn_in(parts: Parts, live: Matured, at: float, count: int, rewards: dict[int, float], named: int = 0) -> None:
    """Write `count` live episodes of each version, as chance draws them, and some that name the other version."""
    left = {0: count, 1: count}
    while any(left.values()) or named:
        at += 1.0
        probe = f"{id_at('ep', at)}{live.count + 1:012x}"
        version = int(parts.pointers.draws(1, episode_id=probe, owner_hash="key"))
        if left[version]:
            left[version] -= 1
        elif named:
            named, version = named - 1, 1 - version
        else:
            live.count += 1
            continue
        assert live.episode(at, (10.0, rewards[version]), version=version) == probe


@pytest.mark.parametrize(("failure_s", "success_s"), [(300.0, 7200.0), (7200.0, 300.0)])
@pytest.mark.parametrize("fall", [0.0, 0.5])
async def test_only_a_fall_rolls_a_version_back_and_not_how_long_good_and_bad_rewards_take(
    adapters: Parts, failure_s: float, success_s: float, fall: float
) -> None:
    await publish(adapters, "one")
    await adapters.champions.promote(1, by="me")
    began, rng = rows(adapters, PromotionRow)[-1].created_at, random.Random(1)

    def serve(session: Any) -> None:
        live = Matured(session)
        for number in range(150):
            for version, at, success in (
                (0, began - 9 * HOUR_S - 60 * number, 0.6),
                (1, began + 7 * number, 0.6 - fall),
            ):
                won = rng.random() < success
                live.episode(at, (success_s if won else failure_s, float(won)), version=version)

    await adapters.writer.write(serve)
    now = began
    watch = watch_of(adapters, CanarySettings(), lambda: now, window=120, maturity_h=None)
    for _ in range(40):
        await watch.check()
        now += 600
    assert adapters.pointers.champion == (0 if fall else 1)
    if fall:
        found = ledger.EVIDENCE.validate_python(rows(adapters, PromotionRow)[-1].evidence)
        assert isinstance(found, LiveEvidence) and found.rule["maturity_h"] == 4.0


async def test_a_source_that_stops_counting_is_taken_out_of_a_comparison_in_progress(adapters: Parts) -> None:
    await publish(adapters, "one")
    await adapters.champions.promote(1, by="me")
    began = rows(adapters, PromotionRow)[-1].created_at

    def serve(session: Any) -> None:
        live = Matured(session)
        for number in range(40):
            live.episode(began - 9 * HOUR_S - number, (1.0, 1.0), source="crowd")
            live.episode(began + number, (1.0, float(number < 12)), version=1, source="crowd")

    await adapters.writer.write(serve)
    now = began + HOUR_S + 72
    watch = watch_of(adapters, CanarySettings(), lambda: now, window=40, min_episodes=10)
    await watch.check()
    assert watch._promoted is not None and len(watch._promoted.before) == 40
    await adapters.reward_sources.set("crowd", RewardRule(weight=0.0), "me")
    now += HOUR_S
    await watch.check()
    assert adapters.pointers.champion == 1
    await adapters.reward_sources.set("crowd", RewardRule(weight=1.0), "me")
    await watch.check()
    assert adapters.pointers.champion == 0


@pytest.mark.parametrize(("rewarded", "promoted"), [(5, None), (6, True), (9, True)])
async def test_a_canary_is_promoted_at_its_own_number_of_rewarded_episodes(
    adapters: Parts, rewarded: int, promoted: bool | None
) -> None:
    row = await canary(adapters, await publish(adapters, "one"))
    await adapters.writer.write(
        lambda session: drawn_in(adapters, Matured(session), row.created_at, rewarded, {0: 1.0, 1: 1.0}, named=30)
    )
    now = row.created_at
    watch = watch_of(adapters, CanarySettings(share=0.5, min_episodes=6), lambda: now, window=4, min_episodes=4)
    assert watch._read(lambda session: watch._judge_canary(session, row)) == (None, "", None), "nothing is mature"
    now += 3 * HOUR_S
    decided, _, seen = watch._read(lambda session: watch._judge_canary(session, row))
    # Chance decides which of both is the last to have that number.
    fewest = None if seen is None else min(seen.before.episodes, seen.now.episodes)
    assert decided is promoted and fewest == (6 if promoted else None)


async def test_episodes_that_name_a_version_do_not_count_for_it_unless_chance_agrees(adapters: Parts) -> None:
    row = await canary(adapters, await publish(adapters, "one"))
    await adapters.writer.write(
        lambda session: drawn_in(adapters, Matured(session), row.created_at, 3, {0: 1.0, 1: 1.0}, named=40)
    )
    watch = watch_of(
        adapters, CanarySettings(share=0.5, min_episodes=20), lambda: row.created_at + 73 * HOUR_S, min_episodes=2
    )
    decided, reason, evidence = watch._read(lambda session: watch._judge_canary(session, row))
    assert decided and reason.startswith("3 rewarded episodes of each within 72 hours; mean live reward")
    assert evidence is not None and evidence.rule["maturity_h"] == 1.0


async def test_by_key_without_earlier_rewards_of_any_key_nothing_is_compared_and_the_ledger_says_so(
    adapters: Parts,
) -> None:
    row = await canary(adapters, await publish(adapters, "one"))
    await adapters.writer.write(
        lambda session: drawn_in(adapters, Matured(session), row.created_at, 9, {0: 1.0, 1: 0.0})
    )
    settings = CanarySettings(share=0.5, by="key", min_episodes=20)
    watch = watch_of(adapters, settings, lambda: row.created_at + 73 * HOUR_S)
    assert watch._read(lambda session: watch._judge_canary(session, row)) == (
        True,
        "0 rewarded episodes of each within 72 hours; no API key has rewarded episodes before the canary",
        None,
    )


@pytest.mark.parametrize("promote", [True, False])
async def test_an_outcome_of_a_canary_that_has_ended_changes_nothing(adapters: Parts, promote: bool) -> None:
    row = await canary(adapters, await publish(adapters, "one"))
    await adapters.champions.promote(0, by="me")
    before = ledger_of(adapters)
    await adapters.champions.settle_canary(row.id, 1, promote=promote, reason="late", evidence=None)
    assert (ledger_of(adapters), adapters.pointers.champion, adapters.pointers.canary) == (before, 0, None)
    assert [run.gate for run in rows(adapters, RunRow)] == ["void"]


async def test_a_rejected_canary_is_no_head_and_no_champion(adapters: Parts) -> None:
    row = await canary(adapters, await publish(adapters, "one"))
    await adapters.champions.settle_canary(row.id, 1, promote=False, reason="worse", evidence=None)
    pointers = adapters.pointers
    assert (pointers.champion, pointers.head, pointers.canary) == (0, 0, None)
    with adapters.database.read() as session:
        assert (ledger.champion(session), ledger.head(session), ledger.canary(session)) == (0, 0, None)
    assert [run.gate for run in rows(adapters, RunRow)] == ["rejected"]


async def test_a_decision_of_the_gate_is_recorded_once(adapters: Parts) -> None:
    run_id = await publish(adapters, "one")
    await canary(adapters, run_id)
    before = ledger_of(adapters)
    await adapters.champions.settle(run_id, evidence())
    await adapters.champions.settle(run_id, evidence(False))
    assert ledger_of(adapters) == before


async def test_a_candidate_is_not_promoted_over_a_champion_it_was_not_compared_with(adapters: Parts) -> None:
    run_id = await publish(adapters, "one", "two")

    def due(session: Any) -> None:
        session.get_one(RunRow, run_id).gate = "due"

    await adapters.writer.write(due)
    await adapters.champions.promote(1, by="me")
    await adapters.champions.settle(run_id, evidence(candidate=2))
    newest = rows(adapters, PromotionRow)[-1]
    assert (newest.action, newest.from_version, newest.to_version) == ("reject", 2, 1)
    assert "version 1 became the champion in the meantime" in newest.reason
    assert (adapters.pointers.champion, adapters.pointers.head) == (1, 1)


async def test_a_pinned_champion_and_a_newer_one_are_not_taken_back(adapters: Parts) -> None:
    run_id = await publish(adapters, "one")
    await adapters.champions.promote(1, by="me")
    await adapters.champions.pin(1, True)
    assert not await _take_back(adapters, run_id)
    await adapters.champions.pin(1, False)
    stale = rows(adapters, PromotionRow)[-1].id
    await adapters.champions.promote(1, by="me")
    figures = [LiveFigures(version=version, episodes=9, mean_reward=0.0) for version in (0, 1)]
    worse = LiveEvidence(before=figures[0], now=figures[1], e_value=99.0, worse=True, method="m", rule={})
    assert not await adapters.champions.take_back(stale, worse, "worse")
    assert adapters.pointers.champion == 1
