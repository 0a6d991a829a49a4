"""The tasks that a learner step plays."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from env_adapters import environment_spec
from server.errors import NotFound
from server.store.tables import BatchRow, CampaignRow, EpisodeRow, PlayRow, RunRow
from server.training.data.curriculum import RECENT, learnability, record_of, tasks_of, tasks_of_step
from upturn.wire import PlayPlan, TaskChoice

NAMES = [f"t{i:02}" for i in range(30)]


def plan(**weights: int) -> PlayPlan:
    return PlayPlan(environments={name: TaskChoice(tasks=NAMES, weight=w) for name, w in weights.items()}, groups=4)


def alone(curriculum: str = "uniform", groups: int = 4) -> PlayPlan:
    return PlayPlan.model_validate({"environment": "a", "tasks": NAMES, "groups": groups, "curriculum": curriculum})


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1), st.integers(0, 10_000), st.integers(0, 100)
)
def test_environments_get_groups_by_weight_and_no_task_twice_in_a_step(
    weights: dict[str, int], start: int, seed: int
) -> None:
    mixed, tasks = plan(**weights), dict.fromkeys(weights, NAMES)
    total = sum(weights.values())
    steps = [tasks_of_step(mixed, tasks, seed, start * total + i) for i in range(total)]
    counts = Counter(name for step in steps for name, chosen in step.items() for _ in chosen)
    # A step that crosses the end of an environment's tasks may have fewer.
    assert all(4 * weight - total <= counts[name] <= 4 * weight for name, weight in weights.items())
    assert all(len(set(chosen)) == len(chosen) > 0 for step in steps for chosen in step.values())
    assert steps[-1] == tasks_of_step(mixed, tasks, seed, start * total + total - 1)


def test_each_environment_plays_every_task_once_before_repeating_any() -> None:
    mixed, tasks = plan(a=2, b=1), {"a": NAMES, "b": NAMES[:10]}
    played: dict[str, list[str]] = {"a": [], "b": []}
    for step in range(30):
        for name, chosen in tasks_of_step(mixed, tasks, 3, step).items():
            played[name] += chosen
    assert sorted(played["a"][:30]) == NAMES and sorted(played["b"][:10]) == NAMES[:10]
    assert played["a"][30:60] != played["a"][:30]


def test_the_seeded_order_of_one_environment_does_not_change() -> None:
    assert [tasks_of_step(alone(), {"a": NAMES}, 7, step)["a"] for step in (0, 8)] == [
        ["t22", "t23", "t01", "t13"],
        ["t01", "t04", "t09", "t12"],
    ]


def test_solved_and_hopeless_tasks_come_up_rarely_and_new_tasks_first() -> None:
    record = {("a", name): (RECENT if i % 2 else 0, RECENT) for i, name in enumerate(NAMES[:20])}
    record |= {("a", name): (RECENT // 2, RECENT) for name in NAMES[20:25]}
    drawn = Counter(
        task
        for step in range(1000)
        for task in tasks_of_step(alone("learnability"), {"a": NAMES}, 0, step, record)["a"]
    )
    known = [drawn[name] for name in NAMES[:20]]
    assert min(known) > 0 and max(known) < min(drawn[name] for name in NAMES[20:]) / 4
    first = tasks_of_step(
        alone("learnability", groups=5), {"a": NAMES}, 0, 0, {("a", name): (0, 10**9) for name in NAMES[:25]}
    )["a"]
    assert sorted(first) == NAMES[25:]
    assert learnability(0, 0) == max(learnability(won, count) for count in range(RECENT) for won in range(count + 1))


def test_a_step_draws_the_same_tasks_again_and_all_tasks_if_there_are_few() -> None:
    again = [tasks_of_step(alone("learnability"), {"a": NAMES}, 1, 5, {("a", "t00"): (1, 2)}) for _ in range(2)]
    assert again[0] == again[1] != tasks_of_step(alone("learnability"), {"a": NAMES}, 2, 5, {("a", "t00"): (1, 2)})
    assert sorted(tasks_of_step(alone("learnability"), {"a": ["x", "y"]}, 1, 5)["a"]) == ["x", "y"]


def test_a_split_contains_all_its_tasks_and_an_unknown_split_is_refused() -> None:
    assert tasks_of(PlayPlan(environment="textcraft", split="test")) == {
        "textcraft": environment_spec("textcraft").tasks("test")
    }
    with pytest.raises(NotFound, match="textcraft has no split 'dev', only train, test"):
        tasks_of(PlayPlan(environment="textcraft", split="dev"))
    with pytest.raises(NotFound):
        tasks_of(PlayPlan(environment="nowhere", split="train"))


def test_the_record_covers_the_newest_episodes_of_the_runs_earlier_steps(session: Session) -> None:
    def played(run: str, step: int, outcomes: dict[str, list[bool | None]], status: str = "terminated") -> None:
        if session.get(RunRow, run) is None:
            session.add(RunRow(id=run, state="running", trigger="t", config={}, step=0, created_at=0.0))
        session.flush()
        play = PlayRow(id=f"play-{run}-{step}", state="done", request={}, created_at=0.0)
        session.add(play)
        session.flush()
        session.add(
            BatchRow(
                id=f"batch-{run}-{step}",
                run_id=run,
                step=step,
                horizon=1,
                state="leased",
                play_id=play.id,
                stats={},
                created_at=0.0,
            )
        )
        for task, successes in outcomes.items():
            for i, success in enumerate(successes):
                session.add(
                    EpisodeRow(
                        id=f"{step:03}-{run}-{task}-{i:03}",
                        status=status,
                        seed=0,
                        horizon=1,
                        environment="a",
                        task=task,
                        play_id=play.id,
                        purpose="training",
                        policy_version=0,
                        trainable=True,
                        success=success,
                        error_class="Broken" if status == "error" else None,
                        details={},
                        opened_at=0.0,
                    )
                )
        session.flush()

    played("one", 0, {"x": [True] * 30, "y": [False]})
    played("one", 1, {"x": [False] * 10, "y": [None], "z": [True]})
    played("one", 2, {"y": [True]})
    played("one", 3, {"y": [True]}, status="error")
    played("two", 0, {"y": [True] * 5})
    one = session.get_one(RunRow, "one")
    assert record_of(session, one, 0) == {}
    assert record_of(session, one, 1) == {("a", "x"): (30, 30), ("a", "y"): (0, 1)}
    assert record_of(session, one, 2) == {("a", "x"): (RECENT - 10, RECENT), ("a", "y"): (0, 1), ("a", "z"): (1, 1)}
    assert record_of(session, one, 9)["a", "y"] == (1, 2)
    session.add(CampaignRow(id="nightly", name="nightly", created_at=0.0))
    session.flush()
    one.campaign_id = session.get_one(RunRow, "two").campaign_id = "nightly"
    session.flush()
    assert record_of(session, one, 0) == {("a", "y"): (5, 5)}, "earlier nights of a campaign count"
