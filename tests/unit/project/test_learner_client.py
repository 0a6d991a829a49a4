"""The client: what it retries, what it never retries, and how it waits."""

from __future__ import annotations

import json

import httpx2
import pytest

from upturn.client import Client, UpturnAPIError
from upturn.wire import BatchRequest, RunClaim, RunConfig, RunRequest

BATCH = {
    "id": "b1", "run_id": "r1", "step": 0, "horizon": 5, "state": "gathering", "play": None, "samples": [],
    "episodes": 0, "groups": 0, "groups_without_variance": 0, "groups_incomplete": 0,
    "success_rate": None, "mean_reward": None,
    "truncated_share": None, "mean_turns": None, "errors": 0,
}  # fmt: skip
REQUEST = BatchRequest(run_id="r1", learner="me", step=0, horizon=5)


def answering(*answers, retry_s=60.0):
    """Return a client whose server gives these answers in turn, its requests, and its sleeps."""
    requests, sleeps, left = [], [], list(answers)

    def handle(request):
        requests.append(request)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = httpx2.MockTransport(handle)
    client = Client("http://upturn", key="k", retry_s=retry_s, transport=transport, sleep=sleeps.append)
    return client, requests, sleeps


def ok(body, status=200):
    return httpx2.Response(status, json=body)


def error(status, code="oops", **headers):
    body = {"error": {"message": "no", "type": "t", "param": None, "code": code}}
    return httpx2.Response(status, json=body, headers=headers)


def test_overload_is_retried_after_the_time_that_the_server_names():
    client, requests, sleeps = answering(
        error(503, **{"retry-after": "3"}), error(429, **{"retry-after": "7"}), ok({"data": []})
    )
    assert client.runs().data == []
    assert sleeps == [3.0, 7.0]
    assert requests[0].headers["authorization"] == "Bearer k"


def test_other_client_errors_are_raised_at_once_with_the_servers_code():
    client, requests, sleeps = answering(error(409, "lease_lost"))
    with pytest.raises(UpturnAPIError, match="lease_lost") as caught:
        client.heartbeat_run("r1", "me")
    assert (caught.value.status, caught.value.code, caught.value.message) == (409, "lease_lost", "no")
    assert len(requests) == 1
    assert sleeps == []


@pytest.mark.parametrize("status", [500, 501, 502, 504, 400, 404, 422])
def test_an_error_of_the_server_is_raised_after_one_request(status):
    for call in (lambda client: client.runs(), lambda client: client.step("e1", "go north")):
        client, requests, sleeps = answering(error(status))
        with pytest.raises(UpturnAPIError) as caught:
            call(client)
        assert (caught.value.status, len(requests), sleeps) == (status, 1, [])


def test_retries_end_with_the_budget():
    client, _, sleeps = answering(*[error(503, **{"retry-after": "4"})] * 9, retry_s=10.0)
    with pytest.raises(UpturnAPIError) as caught:
        client.runs()
    assert caught.value.retry_after_s == 4.0
    assert sleeps == [4.0, 4.0]


def test_an_unreachable_server_is_retried_and_then_reported_with_status_0():
    client, _, _ = answering(httpx2.ConnectError("refused"), ok({"data": []}))
    assert client.runs().data == []
    client, _, _ = answering(httpx2.ConnectError("refused"), retry_s=0.0)
    with pytest.raises(UpturnAPIError, match="refused") as caught:
        client.runs()
    assert (caught.value.status, caught.value.code) == (0, "connection_error")


def test_an_action_is_retried_only_if_it_never_reached_the_server():
    client, requests, _ = answering(httpx2.ReadError("gone"))
    with pytest.raises(UpturnAPIError, match="gone"):
        client.step("e1", "go north")
    assert len(requests) == 1
    result = {"observation": "", "reward": 0.0, "terminated": False, "truncated": False, "turns_left": 1}
    client, requests, _ = answering(httpx2.ConnectError("refused"), ok(result))
    assert client.step("e1", "go north").turns_left == 1


def test_the_text_of_an_answer_without_an_error_body_becomes_the_message():
    client, _, _ = answering(httpx2.Response(502, text="<html>bad gateway"))
    with pytest.raises(UpturnAPIError, match="bad gateway"):
        client.runs()


def test_a_batch_is_polled_until_it_is_leased():
    client, requests, _ = answering(ok(BATCH), ok(BATCH), ok({**BATCH, "state": "leased"}))
    states = []
    assert client.lease_batch(REQUEST, on_progress=lambda b: states.append(b.state)).state == "leased"
    assert states == ["gathering", "gathering", "leased"]
    assert {r.content for r in requests} == {REQUEST.model_dump_json().encode()}


def test_waiting_for_a_batch_ends_when_on_progress_raises_or_the_batch_is_gone():
    def stop(_):
        raise InterruptedError

    client, _, _ = answering(ok(BATCH))
    with pytest.raises(InterruptedError):
        client.lease_batch(REQUEST, on_progress=stop)
    client, _, _ = answering(ok({**BATCH, "state": "trained"}))
    with pytest.raises(UpturnAPIError, match="batch_trained"):
        client.lease_batch(REQUEST)


def test_claiming_returns_none_where_no_run_is_waiting():
    client, requests, _ = answering(httpx2.Response(204))
    assert client.claim_run(RunClaim(learner="me")) is None
    assert json.loads(requests[0].content) == {"learner": "me", "run_id": None, "work_dir": None}


def test_a_run_survives_the_round_trip_over_the_wire():
    config = RunConfig(steps=3)
    run = {
        "id": "r1", "state": "queued", "trigger": "request", "config": json.loads(config.model_dump_json()), "step": 0,
        "reason": None, "learner": None, "first_version": None, "last_version": None, "created_at": 1.0,
        "started_at": None, "ended_at": None, "steps": [],
    }  # fmt: skip
    client, requests, _ = answering(ok(run, 201))
    assert client.create_run(RunRequest(config=config)).config == config
    assert (requests[0].method, requests[0].url.path) == ("POST", "/v1/runs")
