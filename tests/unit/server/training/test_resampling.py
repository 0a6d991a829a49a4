"""Groups of a play without variance are replaced by other tasks of the same learner step, within a bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from env_adapters.protocol import Transition
from server.environments.settings import EnvironmentSettings
from server.errors import Unavailable
from server.store.tables import EpisodeRow, MetricRow, PlayRow
from server.training.curriculum import further_tasks, record_of
from server.training.resampling import replaced
from server.wiring.parts import Parts
from tests.support.environments.odd import Odd
from tests.support.in_process import Held, claimed, rows, running
from tests.support.live import script, settings_for
from upturn.wire import BatchAck, BatchRequest, BatchView, PlayPlan, RunConfig, RunView

ENVIRONMENT = "odd/inline:x"
TASKS = [f"train/{number}" for number in range(10)]


@pytest.fixture
async def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parts]:
    """A server whose environment gives tasks with an even number different rewards, and the others equal ones."""
    ended: Counter[str] = Counter()

    def end(self: Odd, *_: str) -> Transition:
        ended[self.task] += 1
        value = float(ended[self.task] % 2) if int(self.task.removeprefix("train/")) % 2 == 0 else 1.0
        return Transition("over", value, True, success=value > 0)

    monkeypatch.setattr(Odd, "_do", end)
    model = script(tmp_path / "script", "win")
    environments = EnvironmentSettings(modules=["tests.support.environments.odd_inline"], workers=0)
    async with running(settings_for(tmp_path / "data", model=str(model), environments=environments)) as made:
        yield made


def plan(*tasks: str, **fields: Any) -> dict[str, Any]:
    return {"environment": ENVIRONMENT, "tasks": list(tasks) or TASKS, "groups": 4, "group_size": 2, **fields}


async def lease(parts: Parts, run: RunView, step: int = 0) -> BatchView:
    """Ask for a step's batch until it is leased."""
    while True:
        batch = await parts.batches.lease(BatchRequest(run_id=run.id, learner="tester", step=step, horizon=3))
        if batch.state == "leased":
            return batch


def groups(parts: Parts) -> Counter[str | None]:
    """Return the number of episodes of each task."""
    return Counter(row.task for row in rows(parts, EpisodeRow))


@pytest.mark.parametrize("curriculum", ["uniform", "learnability"])
async def test_groups_without_variance_are_replaced_by_other_tasks(parts: Parts, curriculum: str) -> None:
    run = await claimed(parts, play=plan(resample=1.0, curriculum=curriculum))
    batch = await lease(parts, run)
    played = groups(parts)
    odd = sum(int(task[-1]) % 2 for task in played if task)
    assert set(played.values()) == {2}, "no task is played twice in a step"
    assert batch.groups_played == len(played) == 4 + batch.groups_replaced
    assert batch.groups_replaced == min(odd, 4) > 0
    assert (batch.groups, batch.groups_without_variance) == (len(played) - odd, odd)
    assert (await lease(parts, run)).groups_replaced == batch.groups_replaced
    await parts.batches.acknowledge(batch.id, BatchAck(learner="tester", state="trained"))
    recorded = {row.name: row.value for row in rows(parts, MetricRow)}
    assert (recorded["groups_played"], recorded["groups_replaced"]) == (len(played), batch.groups_replaced)
    with parts.store.database.read() as session:
        record = record_of(session, run.id, 1)
    assert {task: count for (_, task), (_, count) in record.items()} == played, "further groups count for a task"


@pytest.mark.parametrize(
    ("algorithm", "resample", "tasks", "expected"),
    [
        ("grpo", 0.0, 9, 0),
        ("grpo", 0.75, 9, 3),
        ("grpo", 10.0, 5, 1),
        ("rloo", 1.0, 4, 0),
        ("reinforce_pp", 1.0, 9, 0),
    ],
)
async def test_a_step_whose_groups_all_score_alike_ends_at_its_bound_or_its_last_task(
    parts: Parts, algorithm: str, resample: float, tasks: int, expected: int
) -> None:
    alike = [f"train/{2 * number + 1}" for number in range(tasks)]
    run = await claimed(parts, algorithm=algorithm, play=plan(*alike, resample=resample))
    batch = await lease(parts, run)
    assert (batch.groups_played, batch.groups_replaced) == (4 + expected, expected)
    assert len(batch.samples) == (8 if algorithm == "reinforce_pp" else 0)


async def test_an_interrupted_further_play_is_played_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await claimed(parts, play=plan("train/1", "train/3", groups=1, resample=1.0))
    request = BatchRequest(run_id=run.id, learner="tester", step=0, horizon=3)
    await parts.batches.lease(request.model_copy(update={"prepare": True}))
    await parts.plays.view(rows(parts, PlayRow)[0].id, wait_s=60.0)
    held = Held(parts, monkeypatch)
    assert (await parts.batches.lease(request)).state == "gathering"
    await held.began.wait()
    second = max(row.id for row in rows(parts, PlayRow))
    await parts.plays.cancel(second, "the server stopped")
    held.go.set()
    with pytest.raises(Unavailable, match="the server stopped"):
        await parts.batches.lease(request)
    batch = await lease(parts, run)
    assert (batch.groups_played, batch.groups_replaced) == (2, 1)
    plays = sorted(rows(parts, PlayRow), key=lambda row: row.id)
    assert [row.batch_id for row in plays] == [None, None, batch.id]
    assert plays[1].request == plays[2].request, "the same tasks"


def test_each_group_without_variance_is_replaced_once_in_its_own_environment() -> None:
    environments = {name: {"tasks": TASKS} for name in ("a", "b")}
    config = RunConfig.model_validate(
        {"steps": 1, "play": {"environments": environments, "groups": 4, "resample": 1.5}}
    )
    assert replaced(config, Counter(a=2, b=1), Counter()) == {"a": 2, "b": 1}
    assert replaced(config, Counter(a=3, b=1), Counter(a=2, b=1)) == {"a": 1}
    assert replaced(config, Counter(a=9, b=9), Counter(a=3, b=1)) == {"a": 2}
    assert replaced(config, Counter(a=9, b=9), Counter(a=3, b=3)) == {}
    tasks = further_tasks(
        config.play or PlayPlan(environment="a", split="train"),
        {"a": TASKS, "b": TASKS},
        0,
        0,
        wanted={"a": 3, "b": 9},
        played={"a": TASKS[:8], "b": TASKS[:5]},
        record={},
    )
    assert {name: sorted(some) for name, some in tasks.items()} == {"a": TASKS[8:], "b": TASKS[5:]}
