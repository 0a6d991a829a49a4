"""Telemetry: a receiver gets every ended episode once, a tracker every step, and neither can hold up the server."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.engines.settings import EngineSettings
from server.telemetry import ended
from server.telemetry.settings import TelemetrySettings
from tests.support.live import Live, read_metrics, script, serving, settings_for, until
from tests.support.runs.gated import served, trained
from upturn.wire import EpisodeOpen, RewardRequest

trace = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
metrics = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")


class Receiver:
    """An OTLP receiver over HTTP that keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.points: dict[str, Any] = {}
        self.headers: list[dict[str, str]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                if receiver.status == 200:
                    receiver.take(self.path, body)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            request = trace.ExportTraceServiceRequest.FromString(body)
            self.spans += [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
        elif path == "/v1/metrics":
            request = metrics.ExportMetricsServiceRequest.FromString(body)
            found = [m for r in request.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
            self.points = {metric.name: metric for metric in found}

    def named(self, name: str) -> list[dict[str, Any]]:
        return [attributes(span) for span in self.spans if span.name == name]


def attributes(span: Any) -> dict[str, Any]:
    values = {pair.key: pair.value for pair in span.attributes}
    return {key: getattr(value, value.WhichOneof("value")) for key, value in values.items()}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    thread = threading.Thread(target=running.server.serve_forever, daemon=True)
    thread.start()
    yield running
    running.server.shutdown()
    thread.join()
    running.server.server_close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are read at once: nothing here commits at the same time."""
    monkeypatch.setattr(ended, "SETTLED_S", 0.0)


@contextmanager
def exporting(directory: Path, receiver: Receiver, **more: Any) -> Iterator[Live]:
    telemetry = TelemetrySettings(otlp=receiver.url, every_s=0.1, otlp_headers={"x-token": "secret"}, **more)
    model = script(directory / "script", "I walk north.")
    engine = EngineSettings(kind="scripted", context_tokens=4096)
    with serving(settings_for(directory / "data", model=str(model), engine=engine, telemetry=telemetry)) as live:
        yield live


def ended_episode(live: Live, words: str = "Where to?") -> str:
    opened = live.client.open_episode(EpisodeOpen(metadata={"agent": "walker"}))
    live.openai(opened.key).chat.completions.create(model="policy", messages=[{"role": "user", "content": words}])
    live.client.close_episode(opened.id)
    return opened.id


def test_an_ended_episode_arrives_once_as_a_trace(tmp_path: Path, receiver: Receiver) -> None:
    with exporting(tmp_path, receiver) as live:
        first = ended_episode(live)
        until(lambda: len(receiver.named("chat policy")) == 1, "no span came")
        live.client.reward(first, RewardRequest(value=0.5, source="user"))
        until(lambda: receiver.named("evaluation user"), "no reward came")
        second = ended_episode(live)
        until(lambda: len(receiver.named("invoke_agent walker")) == 2, "the second episode did not come")
    with exporting(tmp_path, receiver) as live:
        third = ended_episode(live)
        until(lambda: len(receiver.named("invoke_agent walker")) == 3, "nothing came after a restart")
    assert [span["gen_ai.conversation.id"] for span in receiver.named("invoke_agent walker")] == [first, second, third]
    root, turn, *_ = receiver.spans
    assert turn.trace_id == root.trace_id and turn.parent_span_id == root.span_id and not root.parent_span_id
    assert root.start_time_unix_nano <= turn.start_time_unix_nano <= turn.end_time_unix_nano <= root.end_time_unix_nano
    said = attributes(turn)
    assert (said["gen_ai.request.model"], said["gen_ai.response.model"]) == ("policy", "policy@0")
    assert said["gen_ai.usage.output_tokens"] == len("I walk north.") + 1 and said["upturn.trainable"] is True
    assert "gen_ai.input.messages" not in said, "content is off by default"
    (reward,) = [span for span in receiver.spans if span.name == "evaluation user"]
    assert reward.trace_id == root.trace_id and reward.events[0].name == "gen_ai.evaluation.result"
    assert {header["x-token"] for header in receiver.headers} == {"secret"}


def test_content_is_sent_if_asked_for(tmp_path: Path, receiver: Receiver) -> None:
    with exporting(tmp_path, receiver, content=True) as live:
        ended_episode(live, "Wohin? \u2192")
        until(lambda: receiver.named("chat policy"), "no span came")
    (turn,) = receiver.named("chat policy")
    assert json.loads(turn["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "Wohin? \u2192"}]}
    ]
    assert json.loads(turn["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "I walk north."}], "finish_reason": "stop"}
    ]


def test_the_metrics_are_those_of_the_metrics_page(tmp_path: Path, receiver: Receiver) -> None:
    with exporting(tmp_path, receiver) as live:
        ended_episode(live)

        def arrived() -> bool:
            turns = receiver.points.get("upturn_turns_total")
            return turns is not None and any(point.as_double == 1 for point in turns.sum.data_points)

        until(arrived, "the turn was not counted")
        shown = {name.partition("{")[0] for name in read_metrics(live)}
    assert receiver.points["upturn_turns_total"].sum.is_monotonic
    (seconds,) = receiver.points["upturn_turn_seconds"].histogram.data_points
    assert seconds.count == sum(seconds.bucket_counts) == 1 and len(seconds.bucket_counts) == 10
    assert receiver.points["upturn_engine_up"].gauge.data_points[0].as_double == 1
    for name in receiver.points:
        assert {name, f"{name}_bucket"} & shown, name


def test_a_receiver_that_is_away_holds_nothing_up_and_misses_nothing(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 400
    with exporting(tmp_path, receiver) as live:
        names = [ended_episode(live) for _ in range(3)]
        failed = 'upturn_telemetry_total{outcome="failed",target="otlp"}'
        until(lambda: read_metrics(live).get(failed, 0) >= 2, "no failure was counted")
        assert receiver.spans == []
        receiver.status = 200
        until(lambda: len(receiver.named("invoke_agent walker")) == 3, "what was missed did not come")
    assert [span["gen_ai.conversation.id"] for span in receiver.named("invoke_agent walker")] == names


def test_what_ended_before_the_first_export_is_not_sent(tmp_path: Path, receiver: Receiver) -> None:
    model = script(tmp_path / "script", "I walk north.")
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        ended_episode(live)
    with exporting(tmp_path, receiver) as live:
        new = ended_episode(live)
        until(lambda: receiver.named("invoke_agent walker"), "nothing came")
    assert [span["gen_ai.conversation.id"] for span in receiver.named("invoke_agent walker")] == [new]


class Tracked:
    """A tracker's run."""

    def __init__(self, **facts: Any) -> None:
        self.facts, self.logged, self.finished = facts, list[tuple[int, dict[str, float]]](), False

    def log(self, figures: dict[str, float], step: int) -> None:
        self.logged.append((step, figures))

    def finish(self) -> None:
        self.finished = True


def test_a_tracker_gets_each_learner_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Tracked] = []

    def init(**facts: Any) -> Tracked:
        runs.append(Tracked(**facts))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    telemetry = TelemetrySettings(tracker="trackio", project="nights", every_s=0.1)
    for _ in range(2):
        with served(tmp_path, telemetry=telemetry) as live:
            run = trained(live, "add 1", campaign="nightly")
            until(lambda name=run.id: any(r.finished for r in runs if r.facts["name"] == name), "it was not finished")
    assert [tracked.facts["project"] for tracked in runs] == ["nights", "nights"]
    assert [[step for step, _ in tracked.logged] for tracked in runs] == [[0], [1]], "global steps, each once"
    assert runs[0].logged[0][1]["horizon"] > 0 and runs[0].facts["config"]["campaign"] == "nightly"
