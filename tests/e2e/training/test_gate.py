"""The promotion gate: a better candidate is promoted, any other is undone, and the ledger says why."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from server.environments.plays import STOPPED
from server.store.tables import PlayRow
from server.training.settings import GateSettings
from tests.support.live import Live, script, until
from tests.support.postgres import running_postgres
from tests.support.process import process
from tests.support.runs.gated import ENVIRONMENT, PLAN, TASKS, begin, decided, end, publish, served, trained
from tests.support.runs.scripted import LEARNER, says
from upturn.client import Client, UpturnAPIError
from upturn.wire import (
    BatchRequest,
    EvaluationPlan,
    GateEvidence,
    RunClaim,
    RunConfig,
    RunRequest,
    Sampling,
)


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_better_candidate_is_promoted_a_worse_one_undone_and_the_next_run_starts_from_the_champion(
    tmp_path: Path, kind: str
) -> None:
    with served(tmp_path, kind) as live:
        better = trained(live, "win", kind)
        assert better.gate == "promoted" and says(live) == ("win", "policy@1")
        worse = trained(live, "add 1", kind)
        assert (worse.gate, worse.first_version, worse.last_version) == ("rejected", 1, 2)
        assert says(live) == says(live, "policy@head") == ("win", "policy@1")
        third = begin(live.client, kind)
        assert third.first_version == 1
        promoted, rejected = [p for p in live.client.promotions().data if p.decided_by == "gate"][::-1]
        assert (promoted.action, promoted.from_version, promoted.to_version) == ("promote", 0, 1)
        assert (promoted.run_id, promoted.reason) == (better.id, "mean gain +1.000, from +1.000 to +1.000")
        assert (rejected.action, rejected.from_version, rejected.to_version) == ("reject", 2, 1)
        assert "success changed by -1.000" in rejected.reason
        shown = live.http.get(f"/v1/promotions/{promoted.id}").json()
        assert shown == promoted.model_dump(mode="json")
        evidence = shown["evidence"]
        assert (evidence["champion"], evidence["candidate"], evidence["horizon"]) == (0, 1, 2)
        assert evidence["promoted"] and rejected.evidence is not None and not rejected.evidence.promoted
        assert evidence["metrics"] == {"entropy": 0.5} and evidence["rule"]["margin"] == 0.05
        figures = evidence["environments"][ENVIRONMENT]
        assert (figures["tasks"], figures["gain"]["low"]) == (12, 1.0)
        assert figures["champion"]["success_rate"] == 0.0 and figures["candidate"]["success_rate"] == 1.0
        assert figures["champion"]["steps"] == 48 and figures["candidate"]["steps"] == 24
        ids = {figures[side]["evaluation_id"] for side in ("champion", "candidate")}
        assert ids == set(rows(live.parts.settings.data_dir, "select id from evaluation order by id limit 2"))
        live.client.rollback("too slow")
        assert says(live) == ("add 1", "policy@0"), "a rollback goes to the champion that the gate compared with"


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_restart_after_a_rejection_serves_the_champion_and_trains_from_it(tmp_path: Path, kind: str) -> None:
    with served(tmp_path, kind, base="win") as live:
        assert trained(live, "add 1", kind).gate == "rejected"
    with served(tmp_path, kind, base="win") as live:
        assert says(live) == says(live, "policy@head") == ("win", "policy@0")
        assert trained(live, "win", kind).first_version == 0


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_candidate_that_breaks_its_environment_is_undone(tmp_path: Path, kind: str) -> None:
    with served(tmp_path, kind) as live:
        assert trained(live, "raise", kind).gate == "rejected"
        assert "nothing can be decided" in live.client.promotions().data[0].reason
        assert says(live) == ("add 1", "policy@0")


def test_a_candidate_that_wins_with_bad_tool_calls_or_slow_answers_is_rejected(tmp_path: Path) -> None:
    call = '<tool_call>{"name": "add", "arguments": {"number": 1}}</tool_call>'
    rule = GateSettings(max_invalid_rise=1, max_latency_ratio=0.001, audit_level=0)  # As if it were very slow.
    with served(tmp_path, "adapter", base=call, gate=rule) as live:
        plan = PLAN.model_copy(update={"tools": True, "sampling": Sampling(max_tokens=200)})
        assert trained(live, "<tool_call>add</tool_call>|win", "adapter", plan=plan).gate == "rejected"
        newest = live.client.promotions().data[0]
        assert isinstance(newest.evidence, GateEvidence) and len(newest.evidence.objections) == 2
        assert f"{ENVIRONMENT}: 100.0% of the tool calls could not be parsed, 0.0% of the champion's" in newest.reason
        assert "at most 0.001 times is allowed" in newest.reason
        figures = newest.evidence.environments[ENVIRONMENT]
        assert (figures.champion.calls, figures.champion.bad_calls) == (48, 0)
        assert (figures.candidate.calls, figures.candidate.bad_calls) == (24, 24)
        assert figures.champion.latency_ms and figures.candidate.latency_ms


def test_a_failed_run_is_undone_without_an_evaluation(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        assert trained(live, "win", state="failed").gate == "rejected"
        newest = live.client.promotions().data[0]
        assert "the run did not end well: failed, tested" in newest.reason
        assert newest.evidence is not None and newest.evidence.environments == {}
        assert says(live) == ("add 1", "policy@0")


def test_a_run_that_published_no_version_needs_no_decision(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        run = begin(live.client)
        live.client.cancel_run(run.id)
        assert decided(live.client, run).gate == "void"
        assert [p.action for p in live.client.promotions().data] == ["first"]


@pytest.mark.parametrize(
    ("base", "tasks", "why"),
    [
        ("add 1", [*TASKS, "train/none"], "no task 'train/none'"),
        ("raise", TASKS, "no episode has a verdict"),
        ("add 1", "exam", "has no split 'exam', only train, test"),
    ],
)
def test_a_run_that_could_never_be_judged_fails_before_its_first_step(
    tmp_path: Path, base: str, tasks: list[str] | str, why: str
) -> None:
    with served(tmp_path, base=base) as live:
        run = begin(live.client, plan=PLAN.model_copy(update={"tasks": {ENVIRONMENT: tasks}}))
        with pytest.raises(UpturnAPIError) as refused:
            live.client.lease_batch(BatchRequest(run_id=run.id, learner=LEARNER, step=0, horizon=2))
        assert refused.value.code == "run_ended"
        failed = live.client.run(run.id)
        assert failed.state == "failed" and failed.reason is not None and why in failed.reason


def test_a_split_stands_for_all_its_tasks(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        trained(live, "win", plan=EvaluationPlan(tasks={ENVIRONMENT: "test"}))
        evidence = live.client.promotions().data[0].evidence
        assert evidence is not None and evidence.environments[ENVIRONMENT].tasks == 3


def test_no_run_starts_while_a_decision_is_due_and_a_promotion_by_hand_in_the_meantime_stays(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        run = begin(live.client)
        publish(live.client, live.parts.settings.data_dir, run, "win", delay_s=0.3)
        end(live.client, run)
        live.client.create_run(RunRequest(config=RunConfig(steps=1)))
        assert live.client.claim_run(RunClaim(learner=LEARNER)) is None
        until(lambda: len(plays(live.parts.settings.data_dir)) == 2, "the candidate is not evaluated")
        live.client.promote(0, "I know better")
        assert decided(live.client, run).gate in ("void", "rejected")
        by_hand = next(p for p in live.client.promotions().data if p.action == "promote")
        assert (by_hand.decided_by, by_hand.reason, by_hand.evidence) == ("anonymous", "I know better", None)
        assert says(live) == ("add 1", "policy@0")
        following = live.client.claim_run(RunClaim(learner=LEARNER))
        assert following is not None and following.first_version == 0


def test_a_candidate_is_rejected_in_favor_of_a_champion_promoted_by_hand_during_its_run(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        assert trained(live, "win").gate == "promoted"
        run = begin(live.client)
        live.client.lease_batch(BatchRequest(run_id=run.id, learner=LEARNER, step=0, horizon=2))
        live.client.promote(0)
        publish(live.client, live.parts.settings.data_dir, run, "win win")
        end(live.client, run)
        assert decided(live.client, run).gate == "rejected"
        newest = live.client.promotions().data[0]
        assert newest.to_version == 0 and "version 0 became the champion in the meantime" in newest.reason
        assert says(live) == ("add 1", "policy@0")


def test_an_evaluation_that_is_interrupted_too_often_rejects_the_candidate(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        run = begin(live.client)
        version = publish(live.client, live.parts.settings.data_dir, run, "win")
        request = {"policy": f"policy@{version}", "environment": ENVIRONMENT, "tasks": TASKS}
        for number in range(3):
            row = PlayRow(
                id=f"play_{number}", state="failed", error=STOPPED, request=request, run_id=run.id, created_at=0.0
            )
            live.parts.writer.submit(lambda session, row=row: session.add(row)).result(timeout=60)
        end(live.client, run)
        assert decided(live.client, run).gate == "rejected"
        assert "was interrupted 3 times" in live.client.promotions().data[0].reason


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_after_a_kill_during_an_evaluation_the_gate_continues_from_the_record(tmp_path: Path, kind: str) -> None:
    model, data = script(tmp_path / "script", "add 1"), tmp_path / "data"
    flags = (
        "--engine.kind",
        "scripted",
        "--weights",
        kind,
        "--environments.modules",
        "tests.support.environments.odd_inline",
        "--environments.workers",
        "0",
    )
    with process(data, model, *flags) as (server, url), Client(url) as client:
        run = begin(client, kind)
        publish(client, data, run, "win", delay_s=0.5)
        end(client, run)
        until(lambda: len(plays(data)) == 2, "the candidate is not evaluated")
        server.kill()
    with process(data, model, *flags) as (_, url), Client(url) as client:
        assert decided(client, run).gate == "promoted"
        newest = client.promotions().data[0]
        assert (newest.action, newest.to_version, newest.run_id) == ("promote", 1, run.id)
        interrupted = ["done", "failed"] if kind == "full" else ["failed", "failed", "done"]
        assert [p["state"] for p in plays(data)] == [*interrupted, "done"], "what was completed is not played again"
        assert next(p for p in client.policies().data if p.champion).version == 1


@pytest.mark.postgres
def test_the_gate_decides_on_postgresql(tmp_path: Path) -> None:
    with running_postgres() as server, served(tmp_path, "adapter", database_url=server.url) as live:
        assert [trained(live, answer, "adapter").gate for answer in ("win", "nonsense")] == ["promoted", "rejected"]
        newest = live.client.promotions().data[0]
        assert newest.evidence is not None
        assert newest.evidence.environments[ENVIRONMENT].candidate.invalid_steps == 48
        assert "100.0% of the steps could not be understood, 0.0% of the champion's" in newest.reason


def test_concurrent_checks_decide_once(tmp_path: Path) -> None:
    with served(tmp_path) as live:
        run = begin(live.client)
        publish(live.client, live.parts.settings.data_dir, run, "win")
        end(live.client, run)

        async def checks() -> None:
            await asyncio.gather(*(live.parts.gate.check() for _ in range(3)))

        asyncio.run_coroutine_threadsafe(checks(), live.loop).result(timeout=60)
        assert decided(live.client, run).gate == "promoted"
        assert len([p for p in live.client.promotions().data if p.decided_by == "gate"]) == 1


def test_the_ledger_refuses_unknown_rows_and_invalid_limits(live: Live) -> None:
    assert live.http.get("/v1/promotions/7").json()["error"]["code"] == "promotion_not_found"
    assert live.http.get("/v1/promotions?limit=0").status_code == 400
    assert [(p.action, p.decided_by) for p in live.client.promotions().data] == [("first", "swap")]


def rows(data: Path, query: str) -> list[Any]:
    """Return the first column of a query's result."""
    connection = sqlite3.connect(data / "upturn.db", timeout=30)
    try:
        return [row[0] for row in connection.execute(query)]
    finally:
        connection.close()


def plays(data: Path) -> list[dict[str, Any]]:
    """Return the state of every evaluation that the gate requested, oldest first."""
    return [{"state": state} for state in rows(data, "select state from play where run_id is not null order by id")]
