"""The loop against a small in-process server: every ending, and continuing after an interrupt."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx2
import pytest
import torch

from learner.leases import Heartbeat, RunLost
from learner.loop import do_next_run
from learner.model.load import load_policy
from learner.settings import LearnerSettings
from tests.support.tiny_model import make_tiny_model
from tests.unit.learner.test_learner_samples import random_samples, unguarded
from upturn.client import Client, UpturnAPIError
from upturn.manifest import verify_manifest
from upturn.wire import BatchView, OptimizerConfig, PolicyView, RunConfig, RunStep, RunView, StepwiseHorizon

CONFIG = unguarded(
    steps=3,
    optimizer=OptimizerConfig(lr=1e-3),
    schedule=StepwiseHorizon(rounds=[4, 8], every=2),
    checkpoint_every=1,
)


class Server:
    """A minimal Upturn server for one run; `before` may answer or fail any request."""

    def __init__(self, base: Path, config: RunConfig = CONFIG) -> None:
        self.run = RunView(
            id="r1", state="queued", trigger="request", config=config, step=0, reason=None, learner=None,
            first_version=0, last_version=None, created_at=0.0, started_at=None, ended_at=None, steps=[],
        )  # fmt: skip
        self.versions = [self.version(0, "base", base)]
        self.released: list[str] = []
        self.acks: list[tuple[str, dict]] = []
        self.horizons: list[int] = []
        self.teach_nothing_at: set[int] = set()
        self.success: list[float] = []
        """Success rate of each batch; the last also applies to later batches. If empty, 0.5."""
        self.leased: dict[int, BatchView] = {}
        self.replayed: list[int] = []
        self.prepared: list[tuple[int, int]] = []
        """Each step to play ahead, with the number of acknowledgements at that time."""
        self.before = lambda path, body: None

    def version(self, number, kind, path, sha256=None, step=None):
        for old in getattr(self, "versions", []):
            self.versions[self.versions.index(old)] = old.model_copy(update={"head": False})
        return PolicyView(
            name="p", version=number, id=f"p@{number}", kind=kind, path=str(path), manifest_sha256=sha256,
            parent=number - 1 if number else None, run_id="r1" if number else None, step=step, horizon=None,
            champion=not number, head=True, loaded=True, swap_s=0.0, check_mean=0.0, check_max=0.0, created_at=0.0,
        )  # fmt: skip

    def client(self) -> Client:
        return Client("http://upturn", transport=httpx2.MockTransport(self.handle), retry_s=0.0, sleep=lambda _: None)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        path, body = request.url.path, json.loads(request.content or b"{}")
        if (early := self.before(path, body)) is not None:
            return early
        match path.removeprefix("/v1/").split("/"):
            case ["runs", "claim"]:
                if self.run.state not in ("queued", "running"):
                    return httpx2.Response(204)
                self.run = self.run.model_copy(update={"state": "running", "learner": body["learner"]})
                return self.answer(self.run)
            case ["runs", "release"]:
                self.released.append(body["learner"])
                return httpx2.Response(204)
            case ["runs", _, "heartbeat"]:
                return httpx2.Response(204)
            case ["runs", _, "end"]:
                self.run = self.run.model_copy(update={"state": body["state"], "reason": body["reason"]})
                return self.answer(self.run)
            case ["runs", _]:
                return self.answer(self.run)
            case ["batches"]:
                return self.lease(body)
            case ["batches", batch, "ack"]:
                self.acks.append((batch, body))
                if body["state"] == "trained":
                    view = self.leased[self.run.step]
                    measured = {name: getattr(view, name) for name in ("success_rate", "truncated_share")}
                    step = RunStep(
                        step=view.step,
                        horizon=view.horizon,
                        policy_version=body["policy_version"],
                        metrics={**body["metrics"], **measured},
                    )
                    self.run = self.run.model_copy(update={"step": self.run.step + 1, "steps": [*self.run.steps, step]})
                return httpx2.Response(204)
            case ["policies"] if request.method == "POST":
                verify_manifest(Path(body["path"]), body["manifest_sha256"])
                number = len(self.versions)
                kind = self.run.config.kind or "full"
                self.versions.append(self.version(number, kind, body["path"], body["manifest_sha256"], body["step"]))
                return self.answer(self.versions[-1])
            case ["policies"]:
                data = ",".join(v.model_dump_json() for v in reversed(self.versions))
                return httpx2.Response(200, text=f'{{"data":[{data}]}}')
        raise AssertionError(f"unexpected {request.method} {path}")

    def lease(self, body) -> httpx2.Response:
        if body["prepare"]:
            self.prepared.append((body["step"], len(self.acks)))
            return self.answer(self.leased[body["step"] - 1])
        if body["replay"]:
            self.replayed.append(body["step"])
            return self.answer(self.leased[body["step"]])
        self.horizons.append(body["horizon"])
        samples = [] if body["step"] in self.teach_nothing_at else random_samples(seed=body["step"])
        success = self.success[min(body["step"], len(self.success) - 1)] if self.success else 0.5
        self.leased[body["step"]] = BatchView(
            id=f"b{body['step']}",
            run_id="r1",
            step=body["step"],
            horizon=body["horizon"],
            state="leased",
            play=None,
            samples=samples,
            episodes=12,
            groups=3,
            groups_without_variance=0,
            groups_incomplete=0,
            success_rate=success,
            mean_reward=0.5,
            truncated_share=0.0,
            mean_turns=2.0,
            errors=0,
        )
        return self.answer(self.leased[body["step"]])

    @staticmethod
    def answer(view) -> httpx2.Response:
        return httpx2.Response(200, text=view.model_dump_json())


def set_up(tmp_path, config=CONFIG):
    torch.set_num_threads(1)
    server = Server(make_tiny_model(tmp_path / "base"), config)
    settings = LearnerSettings(server="http://upturn", learner="me", work_dir=tmp_path / "work", device="cpu")
    return server, settings


def refused(code, status=409):
    return httpx2.Response(status, json={"error": {"message": "no", "type": "t", "param": None, "code": code}})


def weights_of(server):
    policy = load_policy(Path(server.versions[-1].path), None, CONFIG, torch.device("cpu"))
    return policy.snapshot()


def test_with_overlap_the_next_step_is_played_before_the_current_one_is_trained(tmp_path):
    play = {"environment": "textcraft", "tasks": ["1/x"]}
    config = RunConfig.model_validate({**CONFIG.model_dump(), "overlap": True, "play": play})
    server, settings = set_up(tmp_path, config)
    do_next_run(server.client(), settings)
    assert server.prepared == [(1, 0), (2, 1)]
    assert server.run.state == "done"


def test_a_run_publishes_a_version_per_step_follows_the_schedule_and_ends_done(tmp_path):
    server, settings = set_up(tmp_path)
    run = do_next_run(server.client(), settings)
    assert (run.state, run.step) == ("done", 3)
    assert server.horizons == [4, 4, 8]
    assert [v.step for v in server.versions[1:]] == [0, 1, 2]
    assert [ack["policy_version"] for _, ack in server.acks] == [1, 2, 3]
    assert all(ack["state"] == "trained" and len(ack["episodes"]) == 12 for _, ack in server.acks)
    assert do_next_run(server.client(), settings) is None


def test_a_batch_that_teaches_nothing_is_acknowledged_without_a_version_and_the_run_continues(tmp_path):
    server, settings = set_up(tmp_path)
    server.teach_nothing_at = {0, 2}
    assert do_next_run(server.client(), settings).state == "done"
    assert [ack["policy_version"] for _, ack in server.acks] == [None, 1, None]
    assert server.acks[0][1]["metrics"]["skipped"] == 1.0
    assert server.acks[0][1]["episodes"] == []


@pytest.mark.parametrize("config", [CONFIG, CONFIG.model_copy(update={"kind": "adapter"})], ids=["full", "adapter"])
def test_a_learner_interrupted_at_any_step_resumes_to_the_same_weights(tmp_path, config):
    whole, settings = set_up(tmp_path / "whole", config)
    do_next_run(whole.client(), settings)

    class Interrupt(BaseException):
        pass

    server, settings = set_up(tmp_path / "cut", config)
    interrupts = [0, 1, 2]

    def before(path, body):
        if path == "/v1/policies" and body and interrupts and body["step"] == interrupts[0]:
            interrupts.pop(0)
            raise Interrupt

    server.before = before
    for _ in range(3):
        with pytest.raises(Interrupt):
            do_next_run(server.client(), settings)
    assert do_next_run(server.client(), settings).state == "done"
    assert [(batch, ack["state"]) for batch, ack in server.acks] == [
        ("b0", "returned"), ("b0", "trained"), ("b1", "returned"), ("b1", "trained"), ("b2", "returned"),
        ("b2", "trained"),
    ]  # fmt: skip
    file = "adapter_model.safetensors" if config.kind == "adapter" else "model.safetensors"
    one, two = (Path(s.versions[-1].path, file).read_bytes() for s in (whole, server))
    assert one == two


def test_a_run_continues_from_its_published_version_if_a_trained_batch_has_lost_episodes(tmp_path):
    config = CONFIG.model_copy(update={"checkpoint_every": 100})
    server, settings = set_up(tmp_path, config)

    def away(path, body):
        return refused("unavailable", 503) if path == "/v1/batches" and body["step"] == 2 else None

    server.before = away
    with pytest.raises(UpturnAPIError, match="503"):
        do_next_run(server.client(), settings)
    assert server.run.state == "running"  # the server was away, so the run can continue later
    published = weights_of(server)
    server.leased[1] = server.leased[1].model_copy(update={"samples": server.leased[1].samples[:-1]})
    server.before = lambda path, body: None
    assert do_next_run(server.client(), settings).state == "done"
    assert server.replayed == [0, 1]
    final = weights_of(server)
    change = max(float((final[n] - published[n]).abs().max()) for n in final)
    assert 0 < change < 2 * CONFIG.optimizer.lr  # one Adam step from the published weights, not three from the base


def test_a_cancelled_run_ends_quietly_and_returns_no_batch(tmp_path):
    server, settings = set_up(tmp_path)

    def before(path, body):
        if path == "/v1/batches" and body["step"] == 1:
            server.run = server.run.model_copy(update={"state": "cancelled"})
            return refused("run_cancelled")
        return None

    server.before = before
    assert do_next_run(server.client(), settings).state == "cancelled"
    assert [ack["state"] for _, ack in server.acks] == ["trained"]


def test_a_run_that_fails_returns_its_batch_and_ends_failed_with_the_reason(tmp_path):
    server, settings = set_up(tmp_path)
    server.before = lambda path, body: refused("check_failed") if path == "/v1/policies" and body else None
    with pytest.raises(UpturnAPIError):
        do_next_run(server.client(), settings)
    assert server.run.state == "failed"
    assert "check_failed" in server.run.reason
    assert [ack["state"] for _, ack in server.acks] == ["returned"]


def test_a_lost_lease_stops_the_loop_at_its_next_check(tmp_path):
    server, _ = set_up(tmp_path)
    beats = []

    def before(path, body):
        beats.append(path)
        return refused("unavailable", 503) if len(beats) == 1 else refused("lease_lost")

    server.before = before
    with Heartbeat(server.client(), "r1", "me", every_s=0.01) as heartbeat:
        heartbeat.check()
        until = time.monotonic() + 5
        with pytest.raises(RunLost, match="lease_lost"):
            while time.monotonic() < until:
                heartbeat.check()
                time.sleep(0.005)
    assert len(beats) == 2  # a heartbeat is repeated while the server is away; a lost lease is final
