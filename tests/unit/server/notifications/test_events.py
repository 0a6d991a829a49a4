"""What becomes an event, what it says, and that each is sent once."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.notifications.events import one_line
from server.store.tables import BatchRow, NotificationRow, RunRow
from server.wiring.parts import Parts
from server.wiring.store import open_store
from tests.support.database import locked
from tests.support.in_process import publication, queued, rows, running
from tests.support.live import script, settings_for
from tests.support.notifications.receiver import Receiver
from tests.support.notifications.told import decide, end_run, notify, told, until
from tests.support.postgres import running_postgres
from tests.unit.server.notifications.conftest import Server
from upturn.wire import AuditFinding, GateEvidence, Interval, LiveEvidence, LiveFigures, RunClaim, RunEnd

OBJECTIONS = ["textcraft: success fell", "the auditor found\na shortcut\x00 in 3 of 20 episodes"]


def judged(promoted: bool) -> GateEvidence:
    return GateEvidence(
        champion=0,
        candidate=0,
        horizon=1,
        method="m",
        gain=Interval(mean=0.1, low=0.05, high=0.15),
        environments={},
        metrics={},
        rule={},
        objections=[] if promoted else OBJECTIONS,
        promoted=promoted,
    )


LIVE = LiveEvidence(
    before=LiveFigures(version=0, episodes=40, mean_reward=0.8),
    now=LiveFigures(version=1, episodes=40, mean_reward=0.2),
    e_value=31.0,
    worse=True,
    method="m",
    rule={},
)


async def test_decisions_and_failed_and_empty_runs_are_told_in_order_and_once(
    server: Server, receiver: Receiver
) -> None:
    async with server() as parts:
        numbers = [
            await decide(parts, "promote", judged(True), reason="mean gain +0.100"),
            await decide(parts, "publish"),
            await decide(parts, "reject", judged(False)),
            await decide(parts, "canary", judged(True)),
            await decide(parts, "rollback", LIVE, by="watch"),
        ]
        failed, empty = await end_run(parts, "failed", "out of memory"), await end_run(parts, "done")
        await parts.runs.cancel((await queued(parts)).id)
        await until(lambda: len(receiver.got) == 6)
    async with server() as parts:
        await parts.notifications.look()
    assert receiver.types == [
        *("policy.promoted", "policy.rejected", "policy.canary", "policy.rolled_back", "run.failed", "run.empty"),
    ]
    promoted, rejected, _, rolled_back, out_of_memory, nothing = (one.event for one in receiver.got)
    assert promoted == {
        "id": receiver.got[0].id,
        "type": "policy.promoted",
        "timestamp": promoted["timestamp"],
        "server": "test-server",
        "text": "policy@0 was promoted to champion by gate: mean gain +0.100",
        "run": None,
        "version": 0,
        "champion": 0,
        "decided_by": "gate",
        "reason": "mean gain +0.100",
        "objections": [],
        "figures": {"gain": 0.1, "gain_low": 0.05, "gain_high": 0.15},
        "path": f"/v1/promotions/{numbers[0]}",
    }
    assert rejected["objections"] == [OBJECTIONS[0], "the auditor found a shortcut in 3 of 20 episodes"]
    assert rolled_back["decided_by"] == "watch" and rolled_back["figures"] == {
        **{"reward_before": 0.8, "reward_now": 0.2, "episodes_before": 40, "episodes_now": 40, "e_value": 31.0},
    }
    assert (out_of_memory["run"], out_of_memory["reason"]) == (failed, "out of memory")
    assert (nothing["run"], nothing["path"], nothing["figures"]) == (
        *(empty, f"/v1/runs/{empty}", {"steps": 0, "trained_steps": 0}),
    )
    assert len({one.id for one in receiver.got}) == 6
    assert all(set(one.event) == set(promoted) for one in receiver.got), "every event has all fields"


async def test_what_the_auditor_finds_is_told_once_with_its_figures_next_to_the_decision(
    server: Server, receiver: Receiver
) -> None:
    finding = AuditFinding(
        environment="textcraft",
        feature="questions",
        tasks=20,
        champion=0.05,
        candidate=0.45,
        rise=0.4,
        tolerated=0.1,
        p_value=0.0001,
        bound=0.01,
        flagged=True,
        sentence="textcraft: possible reward hack: questions; see ep_1, ep_2, ep_3",
        episodes=["ep_1", "ep_2", "ep_3"],
    )
    harmless = finding.model_copy(update={"flagged": False, "sentence": ""})
    found = {"flagged": True, "audit": [finding, harmless], "objections": [finding.sentence]}
    async with server() as parts:
        number = await decide(parts, "reject", judged(False).model_copy(update=found))
        await decide(parts, "reject", judged(False).model_copy(update={"audit": [harmless]}))
        await until(lambda: len(receiver.got) == 3)
    async with server() as parts:
        await parts.notifications.look()
    assert receiver.types == ["policy.rejected", "policy.flagged", "policy.rejected"]
    told_of = next(one.event for one in receiver.got if one.event["type"] == "policy.flagged")
    assert told_of["text"] == f"policy@0 may be hacking its reward: {finding.sentence}"
    assert (told_of["objections"], told_of["path"]) == ([finding.sentence], f"/v1/promotions/{number}")
    assert told_of["figures"] == {"before": 0.05, "after": 0.45, "rise": 0.4, "tolerated": 0.1, "p_value": 0.0001}


async def test_a_continued_candidate_is_told_with_what_was_missing(server: Server, receiver: Receiver) -> None:
    async with server() as parts:
        await decide(parts, "continue", judged(False))
        await until(lambda: receiver.got)
    (told_of,) = (one.event for one in receiver.got)
    assert (told_of["type"], told_of["objections"][0]) == ("policy.continued", OBJECTIONS[0])
    assert "policy@0 was not promoted by gate, policy@0 stays the champion; its campaign continues" in told_of["text"]


async def test_a_run_that_published_a_version_is_not_empty(server: Server, receiver: Receiver) -> None:
    async with server() as parts:
        run = await queued(parts)
        await parts.runs.claim(RunClaim(learner="tester", run_id=run.id))
        version = (await parts.publisher.publish(publication(parts, "better", run.id))).version
        await _train(parts, run.id, version)
        await parts.runs.end(run.id, RunEnd(learner="tester", state="done", reason="all steps are done"))
        await end_run(parts, "failed")
        await until(lambda: receiver.got)
        await parts.notifications.look()
        assert receiver.types == ["run.failed"] and len(told(parts)) == 1


async def _train(parts: Parts, run_id: str, version: int) -> None:
    batch = BatchRow(
        id="batch_1",
        run_id=run_id,
        step=0,
        horizon=1,
        state="trained",
        stats={},
        policy_version=version,
        erased_episodes=0,
        created_at=0.0,
    )
    await parts.writer.write(lambda session: session.add(batch))


async def test_nothing_is_told_of_the_time_before_or_without_a_target(server: Server, receiver: Receiver) -> None:
    async with server(off=True) as parts:
        await decide(parts, "promote")
        await end_run(parts, "failed")
    async with server() as parts:
        await parts.notifications.look()
        assert told(parts) == []
        await decide(parts, "reject")
        await until(lambda: len(receiver.got) == 1)
    async with server(off=True) as parts:
        await parts.notifications.start()
        await decide(parts, "promote")
        await end_run(parts, "failed")
    async with server() as parts:
        await parts.notifications.look()
        await decide(parts, "rollback")
        await until(lambda: len(receiver.got) == 2)
    assert receiver.types == ["policy.rejected", "policy.rolled_back"]


async def test_what_happens_while_the_server_is_down_or_killed_is_told_afterwards(
    server: Server, receiver: Receiver
) -> None:
    async with server():
        pass
    async with server(start=False) as parts:  # As if it was killed before it looked.
        await decide(parts, "promote")
        await end_run(parts, "failed")
    async with server():
        await until(lambda: len(receiver.got) == 2)
    assert receiver.types == ["policy.promoted", "run.failed"]


async def test_only_chosen_events_are_sent(server: Server, receiver: Receiver) -> None:
    async with server(events=["run.failed"]) as parts:
        await decide(parts, "promote")
        await end_run(parts, "done")
        await end_run(parts, "failed")
        await until(lambda: receiver.got)
        assert [kind for kind, *_ in told(parts)] == receiver.types == ["run.failed"]


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


async def test_a_full_disk_is_told_once_when_it_begins_and_once_when_it_is_over(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 64 * 2**20
    set_free(monkeypatch, limit)
    async with server() as parts:
        await parts.notifications.look()
        for free in (limit - 1, limit - 2, limit, limit - 3):  # It stays near the limit.
            set_free(monkeypatch, free)
            await parts.notifications.look()
        await until(lambda: told(parts) == [("disk.full", "sent", 1, None)])
    async with server() as parts:
        await parts.notifications.look()
        set_free(monkeypatch, 2 * limit)
        await parts.notifications.look()
        await parts.notifications.look()
        await until(lambda: len(receiver.got) == 2)
        assert [kind for kind, *_ in told(parts)] == receiver.types == ["disk.full", "disk.free"]
        set_free(monkeypatch, 0)
        await until(lambda: len(receiver.got) == 3)
    full = receiver.got[0].event
    assert full["figures"] == {"free_bytes": limit - 1, "min_free_bytes": limit} and full["path"] == "/readyz"
    assert "64 MiB" in full["text"] and receiver.types[2] == "disk.full"


async def test_a_full_disk_on_which_nothing_can_be_written_is_told_all_the_same(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free(monkeypatch, 2**40)
    async with server() as parts:
        await parts.notifications.look()
        with locked(parts.settings.data_dir):
            set_free(monkeypatch, 0)
            await until(lambda: receiver.got, "the full disk was not told")
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert len(receiver.got) == 1 and told(parts) == []
        await until(lambda: len(receiver.got) == 2, "it was not recorded later")
        await until(lambda: told(parts) == [("disk.full", "sent", 1, None)])
    assert receiver.got[0].id == receiver.got[1].id and receiver.got[0].body == receiver.got[1].body


async def test_a_disk_that_does_not_answer_is_no_news(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: object) -> None:
        raise OSError("stale file handle")

    async with server() as parts:
        monkeypatch.setattr(shutil, "disk_usage", fail)
        await parts.notifications.look()
        await decide(parts, "promote")
        await until(lambda: receiver.got)
        assert receiver.types == ["policy.promoted"]


async def test_a_long_reason_is_cut_and_a_run_without_a_reason_has_a_sentence(
    server: Server, receiver: Receiver
) -> None:
    async with server() as parts:
        await end_run(parts, "failed", "long " * 1000)
        without = await end_run(parts, "failed", "x")
        await until(lambda: len(receiver.got) == 2)
        change = {"reason": None, "ended_at": 2e9}
        await parts.writer.write(lambda session: _change(session.get_one(RunRow, without), change))
        await parts.writer.write(lambda session: _forget(session, without))
        await until(lambda: len(receiver.got) == 3)
    assert receiver.got[0].event["reason"].endswith(" [cut]") and len(receiver.got[0].event["reason"]) <= 500
    assert len(receiver.got[0].body) < 20_000
    assert receiver.got[2].event["reason"] is None and "no reason given" in receiver.got[2].event["text"]


def _change(row: RunRow, values: dict[str, object]) -> None:
    for name, value in values.items():
        setattr(row, name, value)


def _forget(session: Session, run_id: str) -> None:
    session.execute(sa.delete(NotificationRow).where(NotificationRow.key == f"run:{run_id}"))


def test_a_text_is_one_line_that_every_receiver_can_read() -> None:
    assert one_line("a\nb\t c\x00\x1b[31m\ud800 d\u2028e") == "a b c [31m d e"
    assert one_line("x" * 600).endswith(" [cut]") and len(one_line("x" * 600)) == 500


async def test_both_targets_know_an_event_by_the_same_id(server: Server, receiver: Receiver) -> None:
    async with server(command=["true"]) as parts:
        await decide(parts, "promote")
        await until(lambda: [state for _, state, *_ in told(parts) + told(parts, "command")] == ["sent", "sent"])
        (web, command) = rows(parts, NotificationRow)
        assert web.id == command.id == receiver.got[0].id and web.payload == command.payload


@pytest.mark.postgres
async def test_on_postgresql_a_server_that_lost_the_database_to_another_one_sends_nothing(
    tmp_path: Path, receiver: Receiver
) -> None:
    model = str(script(tmp_path / "script", "base"))
    with running_postgres() as postgres:
        settings = settings_for(tmp_path / "a", model=model, database_url=postgres.url, notify=notify(receiver))
        async with running(settings) as parts:
            await parts.notifications.start()
            await decide(parts, "promote", judged(True))
            await decide(parts, "reject", judged(False))
            await end_run(parts, "failed")
            await end_run(parts, "done")
            await until(lambda: [state for _, state, *_ in told(parts)] == ["sent"] * 4)
            assert receiver.types == ["policy.promoted", "policy.rejected", "run.failed", "run.empty"]
            for made in parts.notifications._deliveries.values():
                await made.close()
            await decide(parts, "rollback", LIVE)
            await until(lambda: len(told(parts)) == 5)
            with parts.database.reader.connect() as connection:
                lock = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                connection.execute(sa.text(lock))
            other = settings_for(tmp_path / "b", database_url=postgres.url, start_wait_s=5)
            taker = await asyncio.to_thread(open_store, other)
            for made in parts.notifications._deliveries.values():
                made.start()
            await until(lambda: parts.writer.failing)
            assert len(receiver.got) == 4
            await asyncio.to_thread(taker.close)
            await until(lambda: len(receiver.got) == 5)
