"""Nights of a campaign equal one long run, however each night ended."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx2
import pytest
import torch
from safetensors.torch import load_file

from learner.checks import BadInput
from learner.guards import Collapsed
from learner.loop import do_next_run
from learner.model.load import load_policy
from learner.settings import LearnerSettings
from learner.state.campaign import KEPT_PROMOTED, must_publish_start
from learner.step import Trainer
from tests.support.tiny_model import make_tiny_model
from tests.unit.learner.test_learner_loop import Server
from tests.unit.learner.test_learner_samples import random_samples, unguarded
from upturn.wire import (
    AdaptiveHorizon,
    OptimizerConfig,
    PolicyList,
    RunBudget,
    RunFollows,
    RunList,
    RunView,
    StepwiseHorizon,
)

STEPS, NIGHTS = 2, 3
BASE = {"optimizer": OptimizerConfig(lr=1e-3, warmup_steps=5), "checkpoint_every": 100}
CONFIGS = {
    "full": {"schedule": StepwiseHorizon(rounds=[4, 8, 12], every=3)},
    "adaptive horizon": {"schedule": AdaptiveHorizon(rounds=[4, 8, 12], window=1, min_gain=0.1)},
    "ppo, two minibatches": {"algorithm": "ppo", "minibatches": 2},
    "adapter, reference": {"kind": "adapter", "lora_rank": 4, "kl_coef": 0.1},
    "adapter, reference reset": {"kind": "adapter", "lora_rank": 4, "kl_coef": 0.1, "reference_reset_every": 3},
    "reference": {"kl_coef": 0.1},
}


class Nights(Server):
    """A server with one run after another."""

    def __init__(self, base: Path, steps: int, campaign: str | None, values: dict) -> None:
        super().__init__(base, unguarded(**{**BASE, **values, "steps": steps, "campaign": campaign}))
        self.ended: dict[str, RunView] = {}
        self.batches: dict[tuple[str, int], object] = {}
        self.success = [0.2, 0.5, 0.5, 0.6, 0.6, 0.6]
        self.asked_ready = 0

    def next_night(self, **changes) -> None:
        """Queue a run that continues the last one."""
        last = self.run
        self.ended[last.id] = last
        self.run = last.model_copy(
            update={
                "id": f"r{len(self.ended) + 1}",
                "state": "queued",
                "step": 0,
                "steps": [],
                "first_version": max(v.version for v in self.versions if v.champion),
                "first_step": last.first_step + last.step,
                "follows": RunFollows(run_id=last.id, step=last.step),
                **changes,
            }
        )
        self.leased = {}

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        parts = request.url.path.removeprefix("/v1/").split("/")
        if request.method == "GET" and parts[0] == "runs":
            if len(parts) == 1:
                return self.answer(RunList(data=[self.run, *reversed(self.ended.values())]))
            if parts[1] in self.ended:
                return self.answer(self.ended[parts[1]])
        return super().handle(request)

    def version(self, number, kind, path, sha256=None, step=None):
        return (
            super()
            .version(number, kind, path, sha256, step)
            .model_copy(update={"run_id": self.run.id if number else None})
        )

    def lease(self, body) -> httpx2.Response:
        if body["only_ready"]:
            self.asked_ready += 1
            view = next(iter(self.batches.values()))
            return self.answer(view.model_copy(update={"state": "gathering", "ready": self.asked_ready > 1}))
        if body["replay"]:
            self.replayed.append((body["run_id"], body["step"]))
            return self.answer(self.batches[body["run_id"], body["step"]])
        answer = super().lease(body)
        place = self.run.first_step + body["step"]
        view = self.leased[body["step"]].model_copy(
            update={"samples": random_samples(seed=place), "success_rate": self.success[place]}
        )
        self.leased[body["step"]] = self.batches[self.run.id, body["step"]] = view
        assert answer.status_code == 200
        return self.answer(view)


def set_up(tmp_path: Path, steps: int, campaign: str | None, values: dict) -> tuple[Nights, LearnerSettings]:
    torch.set_num_threads(1)
    server = Nights(make_tiny_model(tmp_path / "base"), steps, campaign, values)
    return server, LearnerSettings(server="http://upturn", learner="me", work_dir=tmp_path / "work", device="cpu")


def final(server: Nights) -> dict[str, torch.Tensor]:
    return load_file(next(Path(server.versions[-1].path).glob("*.safetensors")))


def checkpoints(settings: LearnerSettings, run: RunView) -> Path:
    return settings.work_dir / "checkpoints" / run.id


def long_run(tmp_path: Path, values: dict) -> Nights:
    server, settings = set_up(tmp_path, STEPS * NIGHTS, None, values)
    assert do_next_run(server.client(), settings).state == "done"
    return server


@pytest.mark.parametrize("name", CONFIGS)
def test_nights_equal_one_long_run(tmp_path, name):
    whole = long_run(tmp_path / "whole", CONFIGS[name])
    server, settings = set_up(tmp_path / "nights", STEPS, "nightly", CONFIGS[name])
    runs = []
    for night in range(NIGHTS):
        if night:
            server.next_night()
        assert do_next_run(server.client(), settings).state == "done", server.run.reason
        runs.append(server.run)
    steps = [step for run in runs for step in run.steps]
    for one, other in zip(steps, whole.run.steps, strict=True):
        assert one.horizon == other.horizon
        for figure in ("loss", "grad_norm", "lr", "reference_kl", "value_loss", "horizon_stage", "reference_reset"):
            assert one.metrics.get(figure) == other.metrics.get(figure), figure
    assert all(torch.equal(tensor, final(server)[key]) for key, tensor in final(whole).items())


def test_a_night_that_ended_without_a_checkpoint_is_repeated_from_the_one_before(tmp_path):
    whole = long_run(tmp_path / "whole", {})
    server, settings = set_up(tmp_path / "nights", STEPS, "nightly", {})
    do_next_run(server.client(), settings)
    server.next_night()

    def cancel(path, body):
        if path.endswith("/batches") and body.get("step") == 1:
            server.run = server.run.model_copy(update={"state": "cancelled"})
            return httpx2.Response(409, json={"error": {"message": "no", "type": "t", "code": "run_cancelled"}})

    server.before = cancel
    assert do_next_run(server.client(), settings).state == "cancelled"
    assert not checkpoints(settings, server.run).exists()
    server.before = lambda path, body: None
    server.next_night()
    assert server.run.first_step == 3
    assert do_next_run(server.client(), settings).state == "done"
    assert server.replayed == [("r2", 0)]
    server.next_night(config=server.run.config.model_copy(update={"steps": 1}))
    do_next_run(server.client(), settings)
    assert all(torch.equal(tensor, final(server)[key]) for key, tensor in final(whole).items())


def test_a_night_whose_steps_cannot_be_repeated_sends_its_campaign_back(tmp_path):
    server, settings = set_up(tmp_path, STEPS, "nightly", {})
    do_next_run(server.client(), settings)
    shutil.rmtree(checkpoints(settings, server.run))
    for place, batch in server.batches.items():  # As if other weights had played them.
        wrong = [
            sample.model_copy(update={"logprobs": [None if p is None else p - 5.0 for p in sample.logprobs]})
            for sample in batch.samples
        ]
        server.batches[place] = batch.model_copy(update={"samples": wrong})
    guards = server.run.config.guards.model_copy(update={"mismatch_kl": 0.1})
    server.next_night(config=server.run.config.model_copy(update={"guards": guards}))
    server.ended["r1"] = server.ended["r1"].model_copy(update={"config": server.run.config})
    ends = []
    server.before = lambda path, body: ends.append(body) if path.endswith("/end") else None
    with pytest.raises(
        Collapsed, match="run r1 cannot be continued: computed again, the engine and the learner differ"
    ):
        do_next_run(server.client(), settings)
    assert (server.run.state, server.run.step) == ("failed", 0)
    assert [end["collapsed"] for end in ends] == [True]


def test_a_night_whose_budget_is_used_up_leaves_its_state(tmp_path):
    values = {"budget": RunBudget(minutes=60)}
    server, settings = set_up(tmp_path, STEPS, "nightly", values)

    def spent(path, body):
        if path.endswith("/r1") and server.run.step == 1:
            server.run = server.run.model_copy(update={"state": "done", "reason": "budget"})
        if path.endswith("/end") and server.run.state == "done":
            return httpx2.Response(409, json={"error": {"message": "no", "type": "t", "code": "run_ended"}})

    server.before = spent
    assert do_next_run(server.client(), settings).step == 1
    assert (checkpoints(settings, server.run) / "step-000001" / "state.json").is_file()


def test_the_state_is_published_first_unless_it_is_the_head(tmp_path):
    server, settings = set_up(tmp_path, STEPS, "nightly", {})
    do_next_run(server.client(), settings)
    server.next_night()
    assert not must_publish_start(server.run, PolicyList(data=server.versions))
    last = final(server)
    server.versions[0] = server.versions[0].model_copy(update={"head": True})
    server.versions[-1] = server.versions[-1].model_copy(update={"head": False})
    assert must_publish_start(server.run, PolicyList(data=server.versions))
    count = len(server.versions)
    do_next_run(server.client(), settings)
    assert server.asked_ready == 2, "asked until the run may start"
    start = server.versions[count]
    assert (start.step, start.run_id) == (None, "r2")
    published = load_file(Path(start.path) / "model.safetensors")
    assert all(torch.equal(tensor, last[key]) for key, tensor in published.items())
    assert [v.step for v in server.versions[count:]] == [None, 0, 1]
    assert not must_publish_start(server.run.model_copy(update={"step": 0}), PolicyList(data=server.versions)), (
        "once is enough"
    )


def test_the_end_of_a_stopped_run_is_published_although_its_best_version_is_the_head(tmp_path):
    server, settings = set_up(tmp_path, STEPS, "nightly", {})
    do_next_run(server.client(), settings)
    end = server.versions[-1].model_copy(update={"head": False})
    best = end.model_copy(update={"version": end.version + 1, "step": 0, "head": True, "path": server.versions[1].path})
    server.versions[-1:] = [end, best]
    server.next_night()
    assert must_publish_start(server.run, PolicyList(data=server.versions))


def test_deleted_weights_of_earlier_nights_are_not_needed(tmp_path):
    server, settings = set_up(tmp_path, STEPS, "nightly", {})
    do_next_run(server.client(), settings)
    server.next_night(first_version=1)
    do_next_run(server.client(), settings)
    for version in server.versions[1:]:
        for file in Path(version.path).iterdir():
            file.unlink()
        Path(version.path).rmdir()
    server.next_night(first_version=2)
    assert do_next_run(server.client(), settings).state == "done"


def test_a_campaign_whose_state_was_deleted_says_so_and_what_to_do(tmp_path):
    server, settings = set_up(tmp_path, 1, "nightly", {})
    do_next_run(server.client(), settings)
    server.next_night(first_version=1)
    do_next_run(server.client(), settings)
    shutil.rmtree(settings.work_dir / "checkpoints")
    shutil.rmtree(server.versions[1].path)
    server.run = server.run.model_copy(update={"follows": None})  # Begun anew after a revert.
    server.next_night()
    with pytest.raises(BadInput):
        do_next_run(server.client(), settings)
    assert server.run.state == "failed"
    assert server.run.reason.startswith("campaign 'nightly' cannot continue: ")
    assert server.run.reason.endswith("name another campaign, which begins with the champion's weights")


def test_a_run_deletes_no_checkpoint_of_a_run_that_began_after_it(tmp_path):
    server, settings = set_up(tmp_path, 1, "nightly", {})
    do_next_run(server.client(), settings)
    server.next_night()
    later = server.run.model_copy(update={"id": "later", "first_step": server.run.first_step + 1})
    server.ended["later"] = later
    checkpoints(settings, later).mkdir()
    do_next_run(server.client(), settings)
    assert checkpoints(settings, later).is_dir()


def test_a_campaign_keeps_the_checkpoints_that_it_may_go_back_to(tmp_path):
    server, settings = set_up(tmp_path, 1, "nightly", {})
    do_next_run(server.client(), settings)
    for gate in ("promoted", "promoted", "continued", "promoted", "continued", "continued"):
        server.run = server.run.model_copy(update={"gate": gate})
        if len(server.ended) == 5:
            break
        server.next_night(gate=None)
        do_next_run(server.client(), settings)
    kept = sorted(path.name for path in (settings.work_dir / "checkpoints").iterdir())
    promoted = [run.id for run in server.ended.values() if run.gate == "promoted"][-KEPT_PROMOTED:]
    assert kept == sorted({*promoted, server.run.id, server.run.follows.run_id})


def test_checkpoints_of_steps_that_a_restored_database_does_not_know_are_not_continued(tmp_path, monkeypatch):
    server, settings = set_up(tmp_path, 3, "nightly", {"checkpoint_every": 1})
    before = {}

    def back_up(path, body):
        if path.endswith("/batches") and body["step"] == 1:
            before.update(run=server.run, versions=list(server.versions))

    server.before = back_up
    do_next_run(server.client(), settings)
    lost = final(server)
    server.before = lambda path, body: None
    server.run = before["run"].model_copy(update={"state": "queued"})
    server.versions, server.leased = before["versions"], {}
    real = random_samples
    monkeypatch.setattr(f"{__name__}.random_samples", lambda seed: real(seed=seed + 100))
    do_next_run(server.client(), settings)
    ended = final(server)
    server.next_night(config=server.run.config.model_copy(update={"steps": 1}))
    server.versions[0] = server.versions[0].model_copy(update={"head": True})  # So that the state is published.
    server.versions[-1] = server.versions[-1].model_copy(update={"head": False})
    do_next_run(server.client(), settings)
    start = load_file(Path(server.versions[-2].path) / "model.safetensors")
    assert all(torch.equal(tensor, ended[name]) for name, tensor in start.items())
    assert not all(torch.equal(tensor, lost[name]) for name, tensor in start.items())


def test_a_campaign_keeps_the_checkpoint_behind_a_version_that_was_promoted_by_hand(tmp_path):
    server, settings = set_up(tmp_path, 1, "nightly", {})
    do_next_run(server.client(), settings)
    by_hand = server.versions[-1]
    for _ in range(3):
        server.next_night(gate="continued")
        server.versions = [v.model_copy(update={"champion": v.version == by_hand.version}) for v in server.versions]
        do_next_run(server.client(), settings)
    kept = {path.name for path in (settings.work_dir / "checkpoints").iterdir()}
    assert kept == {by_hand.run_id, server.run.id, server.run.follows.run_id}


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"lora_rank": 8}, "lora_rank"), ({"algorithm": "ppo"}, "algorithm"), ({"kind": "full"}, "kind")],
)
def test_a_campaign_refuses_to_go_on_with_other_weights(tmp_path, changes, named):
    config = unguarded(**BASE, steps=1, kind="adapter", lora_rank=4, campaign="nightly")
    trainer = Trainer(load_policy(make_tiny_model(tmp_path), None, config, torch.device("cpu")), config)
    with pytest.raises(BadInput, match=f"campaign 'nightly' cannot continue with another .*{named}"):
        trainer.continue_with(config.model_copy(update=changes))


def test_settings_of_the_optimizer_may_change_from_night_to_night(tmp_path):
    config = unguarded(**BASE, steps=1, campaign="nightly")
    trainer = Trainer(load_policy(make_tiny_model(tmp_path), None, config, torch.device("cpu")), config)
    trainer.step(random_samples(seed=0), 0)
    moments = next(iter(trainer.optimizer.state.values()))["exp_avg"].clone()
    trainer.continue_with(
        config.model_copy(update={"optimizer": OptimizerConfig(lr=0.5, beta1=0.5, weight_decay=0.1), "kl_coef": 0.1})
    )
    assert trainer.learning_rate(0) == 0.5
    assert trainer.optimizer.param_groups[0]["betas"][0] == 0.5
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert torch.equal(next(iter(trainer.optimizer.state.values()))["exp_avg"], moments)
    assert trainer.reference is not None
