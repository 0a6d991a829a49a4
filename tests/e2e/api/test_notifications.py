"""Notifications of a whole server: what the gate decides is told, and a slow receiver is never in the way."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from server.training.settings import GateSettings
from tests.support.live import Live, read_metrics, script, serving, settings_for, until
from tests.support.notifications.receiver import SECRET, Receiver, receiving
from tests.support.notifications.told import notify
from tests.support.process import process
from tests.support.runs.gated import served, trained
from upturn.client import Client, UpturnAPIError
from upturn.command.app import build
from upturn.command.run import run

ASK = {"model": "policy", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server without notifications."""
    home = tmp_path_factory.mktemp("silent")
    with serving(settings_for(home / "data", model=str(script(home / "script", "Hi")))) as made:
        yield made


def command(live: Live, *arguments: str) -> int:
    return run(build(), ["notifications", "--server", live.url, *arguments], "upturn")


def test_what_the_gate_decides_is_told_with_its_figures_and_objections(
    tmp_path: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path, notify=notify(receiver), gate=GateSettings()) as live:
        better, worse = trained(live, "win"), trained(live, "add 1")
        until(lambda: len(receiver.got) == 2)
        until(lambda: [one.state for one in live.client.notifications().data] == ["sent", "sent"])
        promoted, rejected = (one.event for one in receiver.got)
        assert (promoted["type"], promoted["run"], promoted["version"], promoted["champion"]) == (
            *("policy.promoted", better.id, 1, 1),
        )
        assert promoted["figures"] == {"gain": 1.0, "gain_low": 1.0, "gain_high": 1.0}
        assert (rejected["type"], rejected["run"], rejected["version"], rejected["champion"]) == (
            *("policy.rejected", worse.id, 2, 1),
        )
        assert any("success changed by -1.000" in objection for objection in rejected["objections"])
        assert live.http.get(promoted["path"]).json()["to_version"] == 1
        values = read_metrics(live)
        assert values['upturn_notifications_total{outcome="sent",target="webhook"}'] == 2
        assert command(live) == 0
        shown = capsys.readouterr().out.splitlines()
        assert "policy.rejected" in shown[1] and "policy@1 was promoted" in shown[2] and len(shown) == 3
        assert command(live, "--limit", "1", "--json") == 0
        assert [one["id"] for one in json.loads(capsys.readouterr().out)["data"]] == [receiver.got[1].id]
        assert command(live, "--test") == 0
        assert capsys.readouterr().out == "webhook: arrived\n"
        receiver.statuses = [500]
        assert command(live, "--test") == 1
        assert capsys.readouterr().out == "webhook: did not arrive: HTTP 500\n"
        live.client.rollback("too slow")
        until(lambda: receiver.types[-1] == "policy.rolled_back")
        assert (receiver.got[-1].event["version"], receiver.got[-1].event["champion"]) == (1, 0)


def test_without_a_target_the_answers_say_what_to_set(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(live) == 0
    assert "notifications are off: set notify.webhook" in capsys.readouterr().out
    assert command(live, "--test") == 1
    assert "409 notifications_off" in capsys.readouterr().err
    with pytest.raises(UpturnAPIError) as caught:
        live.client.test_notifications()
    assert (caught.value.status, caught.value.code) == (409, "notifications_off")
    for limit in ("0", "1001", "many"):
        assert live.http.get(f"/v1/notifications?limit={limit}").status_code == 400


def test_a_server_killed_while_it_sends_sends_again_with_the_same_id(tmp_path: Path, receiver: Receiver) -> None:
    model, data = script(tmp_path / "script", "Hi"), tmp_path / "data"
    flags = ("--engine.kind", "scripted", "--notify.webhook", receiver.url, "--notify.secret", SECRET)
    receiver.go.clear()
    with process(data, model, *flags) as (server, url), Client(url) as client:
        client.promote(0, "tested")
        until(lambda: receiver.got)
        server.kill()
        server.wait(60)
    receiver.go.set()
    with process(data, model, *flags) as (_, url), Client(url) as client:
        until(lambda: [one.state for one in client.notifications().data] == ["sent"])
        assert client.notifications().data[0].attempts == 2
    assert [one.id for one in receiver.got] == [receiver.got[0].id] * 2


def test_a_hanging_receiver_and_a_hanging_command_delay_neither_answers_nor_the_end(
    tmp_path: Path, receiver: Receiver
) -> None:
    model, data = script(tmp_path / "script", "Hi"), tmp_path / "data"
    hangs = json.dumps(["sh", "-c", f"touch {tmp_path}/began; trap '' TERM; sleep 1000"])
    flags = ("--notify.webhook", receiver.url, "--notify.secret", SECRET, "--notify.command", hangs)
    receiver.go.clear()
    with process(data, model, "--engine.kind", "scripted", "--notify.timeout-s", "25", *flags) as (server, url):
        with Client(url) as client:
            client.promote(0, "tested")
            until(lambda: receiver.got and (tmp_path / "began").exists())
            assert httpx2.post(f"{url}/v1/chat/completions", json=ASK).status_code == 200
            assert [one.state for one in client.notifications().data] == ["waiting", "waiting"]
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    with closing(sqlite3.connect(data / "upturn.db")) as database:
        rows = database.execute("select state, attempts, error from notification").fetchall()
    assert rows == [("waiting", 1, None)] * 2, "the end waited until an attempt had failed"
