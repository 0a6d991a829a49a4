"""Runs of a campaign continue one another: nights add up to what one long run would have learned."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from env_adapters import environment_spec
from tests.support.runs.learned import serve_tiny, wait_for
from upturn.wire import (
    OptimizerConfig,
    PlayPlan,
    RunConfig,
    RunRequest,
    RunView,
    StepwiseHorizon,
)

NIGHTS, STEPS = 3, 2
TASKS = [t for t in environment_spec("textcraft").tasks("train") if t.startswith("1/")][:8]


def config(kind: str, steps: int, campaign: str | None, **more: Any) -> RunConfig:
    return RunConfig(
        campaign=campaign,
        algorithm="sft",
        kind=kind,
        steps=steps,
        schedule=StepwiseHorizon(rounds=[8, 9, 10], every=3),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=5),
        play=PlayPlan(environment="textcraft", tasks=TASKS, groups=2, group_size=1, agent="oracle"),
        checkpoint_every=10,
        **more,
    )


def trained(directory: Path, kind: str, nights: int, steps: int, campaign: str | None) -> tuple[Any, list[RunView]]:
    """Return the weights after some nights, each after a restart of the server, and the nights' runs."""
    runs = []
    for _ in range(nights):
        with serve_tiny(directory, "local", kind) as live:
            run = live.client.create_run(RunRequest(config=config(kind, steps, campaign)))
            runs.append(wait_for(live, run.id))
            assert runs[-1].state == "done", runs[-1].reason
            newest = next(p for p in live.client.policies().data if p.version == runs[-1].last_version)
            name = "model.safetensors" if kind == "full" else "adapter_model.safetensors"
            weights = load_file(Path(newest.path) / name)
    return weights, runs


def tasks_played(directory: Path, runs: list[RunView]) -> list[list[str]]:
    """Return the tasks of each step of some runs, in order."""
    query = (
        "select b.run_id, b.step, e.task from batch b join episode e on e.play_id = b.play_id "
        "order by b.run_id, b.step, e.id"
    )
    with sqlite3.connect(directory / "data" / "upturn.db") as connection:
        rows = connection.execute(query).fetchall()
    connection.close()
    steps: dict[tuple[str, int], list[str]] = {}
    for run_id, step, task in rows:
        steps.setdefault((run_id, step), []).append(task)
    order = {run.id: number for number, run in enumerate(runs)}
    return [sorted(steps[key]) for key in sorted(steps, key=lambda key: (order[key[0]], key[1]))]


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_nights_of_a_campaign_equal_one_long_run(tmp_path: Path, kind: str) -> None:
    (tmp_path / "nights").mkdir()
    (tmp_path / "long").mkdir()
    apart, nights = trained(tmp_path / "nights", kind, NIGHTS, STEPS, "nightly")
    whole, (long,) = trained(tmp_path / "long", kind, 1, NIGHTS * STEPS, None)
    assert [run.first_step for run in nights] == [0, 2, 4]
    assert [s.horizon for run in nights for s in run.steps] == [s.horizon for s in long.steps] == [8, 8, 8, 9, 9, 9]
    assert tasks_played(tmp_path / "nights", nights) == tasks_played(tmp_path / "long", [long])
    rates = [s.metrics["lr"] for run in nights for s in run.steps]
    assert rates == [s.metrics["lr"] for s in long.steps] and rates[0] < rates[2] < rates[4] == rates[5]
    assert apart.keys() == whole.keys()
    for name in whole:
        assert torch.equal(apart[name], whole[name]), f"{name} differs"
