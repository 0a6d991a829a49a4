"""Runs of GRPO on sampled plays, as nights of a campaign or as one long run, with servers that are killed."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.environments.two_letters import make_spec
from tests.support.live import until
from tests.support.process import process
from tests.support.tiny_model import make_tiny_model
from upturn.client import Client
from upturn.wire import (
    OptimizerConfig,
    PlayPlan,
    RunConfig,
    RunRequest,
    RunView,
    Sampling,
    StepwiseHorizon,
)

FLAGS = (
    *("--learner.start", "--learner.threads", "1", "--learner.lease-s", "2"),
    *("--engine.kind", "local", "--engine.dtype", "float32", "--engine.context-tokens", "1024"),
    *("--environments.modules", '["tests.support.environments.two_letters"]', "--environments.workers", "0"),
)
"""The decisions are off: there is no gate, and no version is compared with another."""
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


@dataclass(frozen=True)
class Played:
    """What is recorded of one learner step, without names and times."""

    horizon: int
    seeds: list[int]
    """Of the step's plays."""
    episodes: list[tuple[Any, ...]]
    """Task, repetition, reward, advantage, and token ids of each episode of the batch."""
    lr: float | None
    """None where there was nothing to learn."""


@dataclass(frozen=True)
class Learned:
    """Some nights, or one long run."""

    weights: dict[str, Tensor]
    steps: list[Played]
    """[global learner step]"""
    runs: list[RunView]


def config(kind: str, steps: int, every: int, campaign: str | None) -> RunConfig:
    """Return a config in which the order of a step's episodes, the record of tasks, and the reference all matter.

    The local engine computes each answer by itself, so an answer depends on weights, prompt, and seed only. An engine
    that computes answers together, such as vLLM, rounds them differently in another company.
    """
    return RunConfig(
        campaign=campaign,
        kind=kind,
        steps=steps,
        schedule=StepwiseHorizon(rounds=[2, 3, 4], every=every),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=5),
        kl_coef=0.01,
        reference_reset_every=every + 1,
        minibatches=2,
        checkpoint_every=3,
        play=PlayPlan(
            environment="two-letters",
            tasks=make_spec().tasks("train"),
            curriculum="learnability",
            groups=4,
            group_size=3,
            resample=0.5,
            sampling=Sampling(max_tokens=2),
        ),
    )


def learn(directory: Path, kind: str, nights: int, steps: int, *, every: int, kill_in_night: bool = False) -> Learned:
    """Train some nights of a campaign, or one run by itself; the server and its learner are killed after each.

    Args:
        directory: an empty directory.
        kind: `full` or `adapter`.
        nights: number of nights; 1 is a run by itself.
        steps: learner steps of each night.
        every: learner steps of a stage of the horizon.
        kill_in_night: kill the server and its learner also in the middle of the night before the last.
    """
    model, ids = make_tiny_model(directory / "model"), list[str]()
    for night in range(nights):
        with killed(directory / "data", model, kind) as client:
            ids.append(client.create_run(RunRequest(config=config(kind, steps, every, _campaign(nights)))).id)
            half = kill_in_night and night == nights - 2
            runs, newest = _wait(client, directory, ids, steps // 2 if half else None)
        if half:
            with killed(directory / "data", model, kind) as client:
                assert client.run(ids[-1]).state == "running", "the night had ended before its server was killed"
                runs, newest = _wait(client, directory, ids, None)
    return _learned(directory, runs, newest)


def learned(client: Client, directory: Path, ids: list[str]) -> Learned:
    """Return what runs that have ended learned."""
    return _learned(directory, *_ended(client, ids))


def _learned(directory: Path, runs: list[RunView], newest: Path) -> Learned:
    (weights,) = (newest / name for name in WEIGHTS if (newest / name).exists())
    played = [step for run in runs for step in _steps(directory / "data" / "upturn.db", run)]
    return Learned(load_file(weights), played, runs)


@contextmanager
def killed(data_dir: Path, model: Path, kind: str) -> Iterator[Client]:
    """Serve in a process of its own, which is killed with its learner when the block ends."""
    with process(data_dir, model, "--weights", kind, *FLAGS) as (server, url), Client(url) as client:
        yield client
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        for member in family:
            member.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=60)


def _campaign(nights: int) -> str | None:
    return "nightly" if nights > 1 else None


def _wait(client: Client, directory: Path, ids: list[str], steps: int | None) -> tuple[list[RunView], Path]:
    """Wait until the last run has trained some steps, or has ended as it should; return all runs and its weights."""
    run_id = ids[-1]

    def waited() -> bool:
        run = client.run(run_id)
        if run.state not in ("queued", "running"):
            assert run.state == "done", f"{run.reason}\n{(directory / f'data/logs/learner-{run_id}.log').read_text()}"
        return run.state == "done" or (steps is not None and run.step >= steps)

    until(waited, "the run did not end", 3000)
    return _ended(client, ids)


def _ended(client: Client, ids: list[str]) -> tuple[list[RunView], Path]:
    """Return runs, and the directory of the weights with which the last one ended."""
    runs = [client.run(each) for each in ids]
    return runs, next(Path(p.path) for p in client.policies().data if p.version == (runs[-1].last_version or 0))


def _steps(database: Path, run: RunView) -> list[Played]:
    """Return what is recorded of each step of a run."""
    connection = sqlite3.connect(database)
    read = lambda query, *values: connection.execute(query, values).fetchall()  # noqa: E731
    steps = []
    for batch, play in read("select id, play_id from batch where run_id = ? order by step", run.id):
        seeds = read("select json_extract(request, '$.seed') from play where id = ? or batch_id = ?", play, batch)
        episodes = read(
            "select e.id, e.task, e.repetition, r.reward, r.advantage from run_episode r join episode e "
            "on e.id = r.episode_id where r.batch_id = ?",
            batch,
        )
        ids = {
            episode: b"".join(
                i for (i,) in read("select token_ids from node where episode_id = ? order by id", episode)
            )
            for episode, *_ in episodes
        }
        step = run.steps[len(steps)]
        known = sorted((*rest, ids[episode]) for episode, *rest in episodes)
        steps.append(Played(step.horizon, [seed for (seed,) in seeds], known, step.metrics.get("lr")))
    connection.close()
    return steps


def check_equal(one: Learned, other: Learned) -> None:
    """Check that both played, earned, and learned the same, step by step and bit by bit."""
    for number, (step, same) in enumerate(zip(one.steps, other.steps, strict=True)):
        assert step == same, f"global step {number} differs"
    tasks = {episode[0] for step in one.steps for episode in step.episodes}
    rewards = {episode[2] for step in one.steps for episode in step.episodes}
    assert len(tasks) > 8 and len(rewards) > 2, "the plays are too uniform to show anything"
    assert one.weights.keys() == other.weights.keys()
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name]), f"{name} differs"
