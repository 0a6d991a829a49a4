"""Delivery to a real receiver: in order, again after a failure, given up at some time, never in the way."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from http.server import HTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from server.errors import Conflict, Unavailable
from server.notifications import delivery, outbox
from server.notifications.webhook import Webhook
from tests.support.database import locked
from tests.support.notifications.receiver import SECRET, Receiver
from tests.support.notifications.told import decide, notify, told, until
from tests.unit.server.notifications.conftest import Server

PAGE = Path(__file__).parents[4] / "docs" / "operations" / "notifications.md"


def sent(attempts: int) -> tuple[str, str, int, str | None]:
    return ("policy.promoted", "sent", attempts, None)


async def test_the_receiver_in_the_docs_accepts_what_the_server_sends_and_nothing_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    monkeypatch.setenv("NOTIFY_SECRET", SECRET)
    code: dict[str, object] = {"__name__": "receiver"}
    exec(text, code)
    code["Receiver"].log_message = lambda *_: None  # type: ignore[attr-defined]
    http = HTTPServer(("127.0.0.1", 0), code["Receiver"])  # type: ignore[arg-type]
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{http.server_address[1]}/"
    other = "whsec_" + "A" * 40
    try:
        async with server(webhook=url) as parts:
            await decide(parts, "promote", reason="mean gain +0.1")
            await until(lambda: told(parts) == [sent(1)])
            assert (await parts.notifications.test()).data[0].arrived
        async with server(webhook=url, secret=f"{other} {SECRET}") as parts:  # The secret is being replaced.
            assert (await parts.notifications.test()).data[0].arrived
        async with server(webhook=url, secret=other) as parts:
            assert (await parts.notifications.test()).data[0].error == "HTTP 400"
        late = Webhook(url, SECRET, 5, clock=lambda: time.time() - 600)
        with pytest.raises(Exception, match="HTTP 400"):
            await late.deliver("evt_1", b"{}")
        await late.close()
    finally:
        http.shutdown()
        thread.join(10)
        http.server_close()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "policy@0 was promoted to champion by gate: mean gain +0.1" and len(printed) == 3


async def test_a_failed_event_is_sent_again_with_the_same_id_and_before_later_ones(
    server: Server, receiver: Receiver
) -> None:
    receiver.statuses = [500, 408, 425, 429, 502, 503]
    async with server() as parts:
        numbers = [await decide(parts, "promote") for _ in range(3)]
        await until(lambda: told(parts) == [sent(7), sent(1), sent(1)])
    assert len({one.id for one in receiver.got[:7]}) == 1 and len(receiver.got) == 9
    assert {one.body for one in receiver.got[:7]} == {receiver.got[0].body}
    assert [one.event["path"] for one in receiver.got[6:]] == [f"/v1/promotions/{number}" for number in numbers]
    assert all(one.headers["content-type"] == "application/json" for one in receiver.got)


async def test_refusals_and_redirects_are_given_up_after_a_few_and_the_next_event_is_sent(
    server: Server, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.headers = {"location": receiver.url}
    receiver.statuses = [404] * delivery.MOST_REFUSALS + [401, 401, 500, *([302] * delivery.MOST_REFUSALS)]
    async with server() as parts:
        for _ in range(3):
            await decide(parts, "promote")
        await until(lambda: len(told(parts)) == 3 and told(parts)[2] == sent(1))
        first, second, _ = told(parts)
        text = parts.metrics.text().decode()
    assert first == ("policy.promoted", "given_up", delivery.MOST_REFUSALS, "HTTP 404")
    assert second[1:3] == ("given_up", delivery.MOST_REFUSALS + 3) and "redirects are not followed" in str(second[3])
    assert len(receiver.got) == 2 * delivery.MOST_REFUSALS + 4
    assert 'upturn_notifications_total{outcome="given_up",target="webhook"} 2.0' in text
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 2 and "given up after 5 attempts: HTTP 404" in said[0]
    assert "the-token" not in caplog.text and SECRET not in caplog.text


async def test_an_event_is_given_up_after_a_day_but_not_without_a_few_attempts(
    server: Server, receiver: Receiver
) -> None:
    receiver.statuses = [500] * 1000
    async with server() as parts:
        await decide(parts, "promote")
        await until(lambda: len(receiver.got) >= 5)
        assert told(parts)[0][1] == "waiting"
        for made in parts.notifications._deliveries.values():
            made.clock = lambda: time.time() + delivery.PATIENCE_S
        await until(lambda: told(parts)[0][1] == "given_up")
        del receiver.got[:]
        await decide(parts, "promote")
        await until(lambda: len(told(parts)) == 2 and told(parts)[1][1] == "given_up")
        assert told(parts)[1][2] == len(receiver.got) == delivery.LEAST_ATTEMPTS


async def test_a_hanging_receiver_delays_neither_the_other_target_nor_the_end_of_the_server(
    server: Server, receiver: Receiver
) -> None:
    receiver.go.clear()
    async with server(command=["true"], timeout_s=25) as parts:
        await decide(parts, "promote")
        await decide(parts, "reject")
        await until(lambda: [state for _, state, *_ in told(parts, "command")] == ["sent", "sent"])
        await until(lambda: receiver.got)
        assert [state for _, state, *_ in told(parts)] == ["waiting", "waiting"]
        test = asyncio.create_task(parts.notifications.test())
        await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="stopping"):
        await test
    async with server(start=False) as parts:
        assert told(parts)[0] == ("policy.promoted", "waiting", 1, None), "the end waited until an attempt had failed"
    receiver.go.set()
    async with server():
        await until(lambda: len(receiver.got) == 3)
    assert receiver.got[0].id == receiver.got[1].id != receiver.got[2].id, "it was not sent again after the end"


async def test_a_receiver_that_does_not_answer_in_time_is_asked_again(server: Server, receiver: Receiver) -> None:
    receiver.go.clear()
    async with server(timeout_s=0.1) as parts:
        await decide(parts, "promote")
        await until(lambda: len(receiver.got) >= 2)
        assert told(parts)[0][3] == "no answer within 0.1 s"
        receiver.go.set()
        await until(lambda: told(parts)[0][1] == "sent")


async def test_the_body_of_an_answer_is_not_read(server: Server, receiver: Receiver) -> None:
    receiver.headers, receiver.body = {"content-length": str(10**12)}, b"x" * 2**20
    receiver.statuses = [200]
    async with server() as parts:
        await decide(parts, "promote")
        await until(lambda: told(parts) == [sent(1)])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/the-token", "no connection: Connection refused"),
        ("http://no-such-host.invalid/the-token", "cannot be resolved"),
        ("https://127.0.0.1:{port}/the-token", "TLS failed"),
    ],
)
async def test_a_receiver_that_cannot_be_reached_is_named_by_its_fault_and_not_by_its_address(
    server: Server, receiver: Receiver, url: str, said: str
) -> None:
    url = url.replace("{port}", receiver.url.split(":")[2].split("/")[0])
    async with server(webhook=url) as parts:
        (result,) = (await parts.notifications.test()).data
    assert not result.arrived and said in str(result.error) and "the-token" not in str(result.error)


async def test_a_server_that_dies_between_sending_and_recording_sends_again_with_the_same_id(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(outbox, "finish", die)
        async with server() as parts:
            await decide(parts, "promote")
            await until(lambda: "stop for an hour" in caplog.text)
    async with server() as parts:
        await until(lambda: told(parts) == [sent(2)])
    async with server() as parts:
        await parts.notifications.look()
    assert len(receiver.got) == 2 and len({one.id for one in receiver.got}) == 1


async def test_what_has_arrived_is_not_sent_again_while_the_record_cannot_be_written(
    server: Server, receiver: Receiver
) -> None:
    receiver.go.clear()
    async with server() as parts:
        await decide(parts, "promote")
        await until(lambda: receiver.got)
        with locked(parts.settings.data_dir):
            receiver.go.set()
            await until(lambda: parts.writer.failing)
            await asyncio.sleep(0.1)
        await until(lambda: told(parts) == [sent(1)])
        assert len(receiver.got) == 1


async def test_a_server_that_cannot_write_sends_nothing_that_another_server_may_send(
    server: Server, receiver: Receiver
) -> None:
    receiver.statuses = [500]
    async with server() as parts:
        await decide(parts, "promote")
        await until(lambda: told(parts)[:1] and told(parts)[0][1:3] == ("sent", 2))
        del receiver.got[:]
        deliveries = parts.notifications._deliveries.values()
        for made in deliveries:
            await made.close()
        await decide(parts, "reject")
        await until(lambda: len(told(parts)) == 2)
        with locked(parts.settings.data_dir):
            for made in deliveries:
                made.start()
            await until(lambda: parts.writer.failing)
            assert receiver.got == []
        await until(lambda: receiver.got)


async def test_a_command_gets_the_event_and_no_secret_of_the_server(
    server: Server, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    monkeypatch.setenv("TEAM", "agents")
    text = f"cat > {tmp_path}/body; env > {tmp_path}/env; echo printed; echo $1 >> {tmp_path}/argument"
    async with server(webhook=None, secret=None, command=["sh", "-c", text, "sh", "a b"], env=["TEAM"]) as parts:
        await decide(parts, "promote")
        await until(lambda: told(parts, "command") == [sent(1)])
        event = json.loads((tmp_path / "body").read_text())
        assert (event["type"], event["server"]) == ("policy.promoted", "test-server") and event["id"]
        variables = (tmp_path / "env").read_text()
        assert "TEAM=agents" in variables and "a secret" not in variables and SECRET not in variables
        assert (tmp_path / "argument").read_text() == "a b\n"
        assert "printed" in (parts.settings.data_dir / "logs" / "notify.log").read_text()


async def test_a_command_that_fails_is_repeated_and_one_that_does_not_read_is_no_failure(
    server: Server, tmp_path: Path
) -> None:
    text = f"test -e {tmp_path}/second || {{ touch {tmp_path}/second; exit 3; }}"
    async with server(webhook=None, secret=None, command=["sh", "-c", text]) as parts:
        await decide(parts, "promote")
        await until(lambda: told(parts, "command") == [sent(2)])


async def test_a_command_that_hangs_is_ended_with_everything_that_it_started(server: Server, tmp_path: Path) -> None:
    text = f"trap '' TERM; sleep 1000 & echo $! >> {tmp_path}/pids; wait; sleep 1000"
    command = {"webhook": None, "secret": None, "command": ["sh", "-c", text]}
    async with server(**command, timeout_s=1) as parts:
        (result,) = (await parts.notifications.test()).data
        assert result.error == "the command did not end within 1 s and was stopped"
    async with server(**command) as parts:
        await decide(parts, "promote")
        await until(lambda: len((tmp_path / "pids").read_text().split()) == 2)
    left = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in left)


async def test_a_program_that_is_gone_is_named(server: Server, tmp_path: Path) -> None:
    program = tmp_path / "tell"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    async with server(webhook=None, secret=None, command=[str(program)]) as parts:
        assert (await parts.notifications.test()).data[0].arrived
        program.unlink()
        (result,) = (await parts.notifications.test()).data
    assert not result.arrived and "status 1: see logs/notify.log" in str(result.error)


async def test_a_test_that_arrives_also_ends_the_pause_of_what_waits(
    server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FIRST_S", 1000.0)
    receiver.statuses = [500]
    async with server() as parts:
        await decide(parts, "promote")
        await until(lambda: told(parts) and told(parts)[0][3] == "HTTP 500")
        assert (await parts.notifications.test()).data[0].arrived
        await until(lambda: told(parts) == [sent(2)])
        views = await parts.notifications.views(10)
    assert [view.type for view in views.data] == ["policy.promoted"] and views.targets == ["webhook"], (
        "it is not stored"
    )
    assert receiver.types == ["policy.promoted", "notification.test", "policy.promoted"]


async def test_a_test_without_a_target_says_what_to_set(server: Server) -> None:
    async with server(off=True) as parts:
        with pytest.raises(Conflict, match=r"set notify\.webhook"):
            await parts.notifications.test()
        assert (await parts.notifications.views(10)).targets == []


async def test_a_receiver_may_ask_for_a_longer_pause(receiver: Receiver) -> None:
    settings = notify(receiver)
    assert settings.webhook is not None
    webhook = Webhook(settings.webhook.get_secret_value(), SECRET, 5)
    pauses = []
    for asked in ("120", "999999", "Wed, 21 Oct 2026 07:28:00 GMT", "-5", "٣"):
        receiver.statuses, receiver.headers = [503], {"retry-after": asked.encode().decode("latin-1")}
        with pytest.raises(delivery.NotDelivered) as caught:
            await webhook.deliver("evt_1", b"{}")
        pauses.append(caught.value.retry_after_s)
    await webhook.close()
    assert pauses == [120, 3600, 0, 0, 0]


def test_pauses_grow_to_an_hour_and_differ() -> None:
    pauses = [delivery.pause_s(attempts) for attempts in (1, 2, 3, 4, 5, 6, 7, 1000)]
    for pause, middle in zip(pauses, (5, 20, 80, 320, 1280, 3600, 3600, 3600), strict=True):
        assert 0.75 * middle <= pause <= 1.25 * middle
    assert len({delivery.pause_s(6) for _ in range(10)}) > 1
