"""A run that is killed at any moment and resumed equals one that was never stopped."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx2
import pytest
import torch
from safetensors.torch import load_file

from learner.loop import do_next_run
from learner.state.resume import load_start, resume
from learner.step import Trainer
from tests.unit.learner.test_learner_loop import set_up
from tests.unit.learner.test_learner_samples import unguarded
from upturn.client import Client, UpturnAPIError
from upturn.wire import AdaptiveHorizon, OptimizerConfig

CPU = torch.device("cpu")
BASE = {"steps": 4, "optimizer": OptimizerConfig(lr=1e-3, warmup_steps=3), "checkpoint_every": 1}
CONFIGS = {
    "full": unguarded(**BASE),
    "checkpoints apart": unguarded(**{**BASE, "checkpoint_every": 3}),
    "no checkpoint": unguarded(**{**BASE, "checkpoint_every": 100}),
    "adaptive horizon": unguarded(**BASE, schedule=AdaptiveHorizon(rounds=[4, 8, 12], window=1, min_gain=0.1)),
    "ppo, two minibatches": unguarded(**BASE, algorithm="ppo", minibatches=2),
    "adapter, reference reset": unguarded(**BASE, kind="adapter", lora_rank=4, kl_coef=0.1, reference_reset_every=2),
    "reference reset, no checkpoint": unguarded(
        **{**BASE, "checkpoint_every": 100}, kl_coef=0.1, reference_reset_every=3
    ),
}


class Killed(BaseException):
    """kill -9: nothing runs after it, so the server gets no further requests."""


class Deadly:
    """A connection to the server that kills the learner at a request, before or after the server has handled it."""

    def __init__(self, server, path: str, step: int, after: bool) -> None:
        self.server, self.path, self.step, self.after, self.dead = server, path, step, after, False

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        if self.dead:
            raise Killed
        path = request.url.path
        hit = (
            request.method == "POST"
            and self.server.run.step == self.step
            and (path.endswith(self.path) and b'"replay":true' not in (request.content or b"").replace(b" ", b""))
        )
        if hit and not self.after:
            self.dead = True
            raise Killed
        answer = self.server.handle(request)
        if hit:
            self.dead = True
            raise Killed
        return answer

    def client(self) -> Client:
        transport = httpx2.MockTransport(self.handle)
        return Client("http://upturn", transport=transport, retry_s=0.0, sleep=lambda _: None)


def final(server):
    directory = Path(server.versions[-1].path)
    return load_file(next(directory.glob("*.safetensors")))


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_run_killed_several_times_equals_an_uninterrupted_one(tmp_path, name):
    config = CONFIGS[name]
    whole, settings = set_up(tmp_path / "whole", config)
    whole.success = [0.2, 0.5, 0.5, 0.6]
    assert do_next_run(whole.client(), settings).state == "done"

    server, settings = set_up(tmp_path / "cut", config)
    server.success = whole.success
    kills = [
        ("/batches", 0, True),
        ("/policies", 1, False),
        ("/ack", 1, True),
        ("/policies", 2, True),
        ("/ack", 3, False),
    ]
    for path, step, after in kills:
        deadly = Deadly(server, path, step, after)
        with pytest.raises(Killed):
            do_next_run(deadly.client(), settings)
        assert deadly.dead
    assert do_next_run(server.client(), settings).state == "done"

    assert [s.step for s in server.run.steps] == list(range(4))
    assert [s.horizon for s in server.run.steps] == [s.horizon for s in whole.run.steps]
    for one, other in zip(server.run.steps, whole.run.steps, strict=True):
        for figure in ("loss", "grad_norm", "entropy", "reference_kl", "value_loss", "horizon_moved"):
            assert one.metrics.get(figure) == pytest.approx(other.metrics.get(figure), abs=1e-6), figure
    expected, resumed = final(whole), final(server)
    assert all((expected[n] - resumed[n]).abs().max() <= 1e-6 for n in expected)


def test_the_adaptive_schedule_of_the_killed_run_advanced(tmp_path):
    server, settings = set_up(tmp_path, CONFIGS["adaptive horizon"])
    server.success = [0.2, 0.5, 0.5, 0.6]
    do_next_run(server.client(), settings)
    assert [s.horizon for s in server.run.steps] == [4, 4, 4, 8]
    assert [s.metrics["horizon_moved"] for s in server.run.steps] == [0, 0, 0, 1]
    assert [s.metrics["horizon_stage"] for s in server.run.steps] == [0, 0, 0, 1]


def interrupted(tmp_path, step, **values):
    """Return a server whose learner was killed at a step, with a new trainer and the learner's checkpoints."""
    config = unguarded(**{**BASE, **values})
    server, settings = set_up(tmp_path, config)
    with pytest.raises(Killed):
        do_next_run(Deadly(server, "/batches", step, after=False).client(), settings)
    trainer = Trainer(load_start(server.run, server.client().policies(), CPU), config)
    return server, trainer, settings.work_dir / "checkpoints" / server.run.id


def batch_of(server, changed=()):
    """Return the batches of finished steps; the batches of some steps lack an episode."""

    def lease(step):
        batch = server.leased[step]
        return batch.model_copy(update={"samples": batch.samples[:-1]}) if step in changed else batch

    return lease


@pytest.mark.parametrize(("every", "step"), [(2, 3), (100, 1)], ids=["after a checkpoint", "without a checkpoint"])
def test_the_only_step_after_the_checkpoint_is_loaded_from_its_version_if_its_batch_has_changed(tmp_path, every, step):
    server, trainer, checkpoints = interrupted(tmp_path, step, checkpoint_every=every)
    assert resume(trainer, server.run, server.client().policies(), checkpoints, batch_of(server, {step - 1})) == step
    newest = load_file(Path(server.versions[step].path, "model.safetensors"))
    assert all(torch.equal(newest[name], weight) for name, weight in trainer.policy.trainable().items())


@pytest.mark.parametrize("status", [500, 502, 404, 0])
def test_a_server_that_fails_while_a_run_resumes_is_an_error_and_not_a_lost_batch(tmp_path, status):
    server, trainer, checkpoints = interrupted(tmp_path, 1, checkpoint_every=100)

    def fails(step):
        raise UpturnAPIError(status, "error", "the server is away")

    with pytest.raises(UpturnAPIError, match="away"):
        resume(trainer, server.run, server.client().policies(), checkpoints, fails)


def test_a_batch_that_is_gone_lets_the_run_continue_from_its_version(tmp_path):
    server, trainer, checkpoints = interrupted(tmp_path, 1, checkpoint_every=100)

    def gone(step):
        raise UpturnAPIError(409, "batch_not_trained", "the batch is gone")

    assert resume(trainer, server.run, server.client().policies(), checkpoints, gone) == 1
    newest = load_file(Path(server.versions[1].path, "model.safetensors"))
    assert all(torch.equal(newest[name], weight) for name, weight in trainer.policy.trainable().items())


def test_a_reset_reference_is_loaded_from_its_published_version_if_a_batch_has_changed(tmp_path):
    config = unguarded(**{**BASE, "checkpoint_every": 100}, kl_coef=0.1, reference_reset_every=2)
    server, settings = set_up(tmp_path, config)
    deadly = Deadly(server, "/batches", 3, after=False)
    with pytest.raises(Killed):
        do_next_run(deadly.client(), settings)
    server.leased[0] = server.leased[0].model_copy(update={"samples": server.leased[0].samples[:-1]})
    trainer = Trainer(load_start(server.run, server.client().policies(), CPU), config)
    done = resume(trainer, server.run, server.client().policies(), tmp_path / "none", lambda step: server.leased[step])
    assert (done, trainer.reference.anchor) == (3, 2)
    published = load_file(Path(server.versions[2].path, "model.safetensors"))  # from step 1, the last before the reset
    assert all(torch.equal(published[name], weight) for name, weight in trainer.reference.weights.items())
    newest = load_file(Path(server.versions[3].path, "model.safetensors"))
    assert all(torch.equal(newest[name], weight) for name, weight in trainer.policy.trainable().items())


@pytest.mark.parametrize("deleted", [{1}, {2}, {1, 2}], ids=["the older", "the newest", "both"])
def test_a_reset_reference_is_the_newest_version_before_the_reset_whose_weights_exist(tmp_path, deleted):
    server, trainer, _ = interrupted(tmp_path, 3, checkpoint_every=100, kl_coef=0.1, reference_reset_every=2)
    weights = {number: load_file(Path(server.versions[number].path, "model.safetensors")) for number in (1, 2, 3)}
    for number in deleted:
        shutil.rmtree(server.versions[number].path)
    changed = batch_of(server, {0})
    assert resume(trainer, server.run, server.client().policies(), tmp_path / "none", changed) == 3
    assert trainer.reference.anchor == 2
    expected = next((weights[number] for number in (2, 1) if number not in deleted), weights[3])
    assert all(torch.equal(expected[name], weight) for name, weight in trainer.reference.weights.items())
