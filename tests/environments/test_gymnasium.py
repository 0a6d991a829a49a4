"""Gymnasium's environments as text."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from env_adapters import REGISTRY, environment_spec
from env_adapters.gymnasium.spec import TASKS
from env_adapters.gymnasium.text import LONGEST, describe, read, show, without_colors
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing, Transition, UnknownTask

ROOT = Path(__file__).parents[2]
PLAYED = [
    "FrozenLake-v1",
    "CliffWalking-v1",
    "Taxi-v4",
    "Blackjack-v1",
    "CartPole-v1",
    "MountainCar-v0",
    "Acrobot-v1",
    "Pendulum-v1",
    "MountainCarContinuous-v0",
]


def play(name: str, *answers: str, task: str = "seed-3", seed: int = 0) -> list[Transition]:
    env = environment_spec(f"gymnasium:{name}").make()
    env.reset(task, seed)
    seen = [env.step(answer) for answer in answers]
    env.close()
    return seen


def transcript(name: str) -> str:
    """Return a random player's transcript of two tasks."""
    env, rng, seen = environment_spec(f"gymnasium:{name}").make(), random.Random("gymnasium"), []
    for task in ("seed-0", "seed-17"):
        seen.append(repr(env.reset(task, 5)))
        for _ in range(40):
            action = env.random(rng)
            transition = env.step(action)
            assert transition.valid, (action, transition)
            seen.append(repr((action, transition)))
            if transition.terminated or transition.truncated:
                assert transition.success is not None
                break
    env.close()
    return "\n".join(seen)


def test_gymnasium_takes_an_id_and_is_not_an_environment_by_itself() -> None:
    assert "gymnasium" in REGISTRY.parametric()
    assert not any(name.startswith("gymnasium") for name in REGISTRY.names())
    for name in ("gymnasium", "gymnasium:", "gymnasium:Nothing-v0", "gymnasium:cartpole-v1", "gymnasium:CartPole"):
        with pytest.raises(UnknownTask):
            environment_spec(name)


def test_an_id_cannot_name_a_module_to_import() -> None:
    for name in ("antigravity:CartPole-v1", "os:Any-v0", "gymnasium.envs.classic_control:CartPole-v1"):
        with pytest.raises(UnknownTask, match="Gymnasium has no"):
            environment_spec(f"gymnasium:{name}")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("name", PLAYED)
def test_a_random_player_only_takes_possible_actions(name: str) -> None:
    assert transcript(name)


def test_the_same_task_and_seed_give_the_same_text_in_every_process() -> None:
    played = ("FrozenLake-v1", "Taxi-v4", "Blackjack-v1", "Pendulum-v1")
    code = f"from tests.environments.test_gymnasium import transcript; print([transcript(n) for n in {played!r}])"
    here = str([transcript(name) for name in played])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == here, done.stderr


def test_tasks_are_seeds_and_the_splits_are_disjoint() -> None:
    found = environment_spec("gymnasium:CartPole-v1")
    train, test = found.tasks("train"), found.tasks("test")
    assert (len(train), len(test)) == (800, 200)
    assert len({*train, *test}) == TASKS
    with pytest.raises(UnknownTask, match="validation"):
        found.tasks("validation")
    for task in ("", "17", "seed-1000", "seed-017", "seed--1", "seed-²"):
        with pytest.raises(UnknownTask, match="seed-0"):
            found.make().reset(task, 0)


def test_two_seeds_of_a_task_and_two_tasks_of_a_seed_are_different_games() -> None:
    env = environment_spec("gymnasium:CartPole-v1").make()
    first = {env.reset(task, seed).messages[-1]["content"] for task in ("seed-0", "seed-1") for seed in (0, 1, 2)}
    assert len(first) == 6


def test_a_rendering_has_brackets_in_place_of_colors() -> None:
    env = environment_spec("gymnasium:FrozenLake-v1").make()
    reset = env.reset("seed-3", 0)
    assert [m["role"] for m in reset.messages] == ["system", "user"]
    assert reset.messages[0]["content"].endswith("Answer with one action only: left | down | right | up")
    assert reset.messages[1]["content"] == "[S]FFF\nFHFH\nFFFH\nHFFG"
    assert without_colors("\x1b[43m \x1b[0m|\x1b[34;1mR\x1b[0m|\x1b[35mB\x1b[0m\n") == "[ ]|(R)|<B>"


def test_rewards_are_the_environments_own_and_the_return_decides_success() -> None:
    seen: list[Transition] = []
    env = environment_spec("gymnasium:CartPole-v1").make()
    env.reset("seed-3", 0)
    while not (seen and seen[-1].terminated):
        seen.append(env.step("left"))
    assert [s.reward for s in seen] == [1.0] * len(seen)
    assert seen[-1].info == {"return": float(len(seen))}
    assert seen[-1].success is False  # Its last reward was 1, but the return is far from 475.
    assert all(s.success is None for s in seen[:-1])
    with pytest.raises(ValueError, match="over"):
        env.step("left")


def test_reaching_the_goal_is_a_success_even_if_every_reward_is_negative() -> None:
    last = play("CliffWalking-v1", "up", *["right"] * 11, "down")[-1]
    assert (last.terminated, last.success, last.reward, last.info) == (True, True, -1.0, {"return": -13.0})


def test_a_time_limit_truncates() -> None:
    last = play("MountainCar-v0", *["none"] * 200)[-1]
    assert (last.terminated, last.truncated, last.success) == (False, True, False)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "north",
        "7",
        "-1",
        "2.0",
        "true",
        "null",
        "[]",
        "[1, 2]",
        "{}",
        "NaN",
        "1e999",
        "9" * 1500,
        "[" * 1900,
        "x" * 100_000,
        "\ud800",
        "Action:",
    ],
)
def test_an_answer_without_an_action_lists_the_possible_ones_and_changes_nothing(answer: str) -> None:
    wrong, right = play("FrozenLake-v1", answer, "left", seed=1)
    assert (wrong.reward, wrong.terminated, wrong.valid) == (0.0, False, False)
    assert wrong.observation.endswith("Answer with one action only: left | down | right | up")
    assert right == play("FrozenLake-v1", "left", seed=1)[0]


BOX = spaces.Box(-1.0, np.array([1.0, 2.0], dtype=np.float32))
NESTED = spaces.Dict({"go": spaces.Discrete(3, start=1), "with": spaces.Tuple((BOX, spaces.MultiBinary(2)))})


@pytest.mark.parametrize(
    ("space", "text", "value"),
    [
        (spaces.Discrete(3), "2", 2),
        (spaces.Discrete(3), "[2]", 2),
        (spaces.Discrete(2, start=5), "6", 6),
        (BOX, "0.5, -1", [0.5, -1.0]),
        (BOX, "[0.5, 2]", [0.5, 2.0]),
        (spaces.Box(0, 255, (2, 2), np.uint8), "[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        (spaces.MultiDiscrete([3, 2]), "2, 1", [2, 1]),
        (spaces.MultiBinary(3), "[1, 0, 1]", [1, 0, 1]),
        (spaces.Text(5), '"hello"', "hello"),
        (NESTED, '{"go": 3, "with": [[0, 1], [1, 0]]}', {"go": 3, "with": [[0.0, 1.0], [1, 0]]}),
    ],
)
def test_actions_of_every_space_are_parsed_from_text(space: spaces.Space[Any], text: str, value: Any) -> None:
    assert describe(space)
    assert space.contains(read(space, text))
    assert show(read(space, text)) == show(value)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (BOX, "0.5"),
        (BOX, "[0.5, 2.1]"),
        (BOX, "[1e300, 0]"),
        (BOX, "[NaN, 0]"),
        (BOX, "[[0, 1], [0]]"),
        (BOX, '["a", 0]'),
        (BOX, "{}"),
        (spaces.Box(0, 255, (1,), np.uint8), "[1.5]"),
        (spaces.Box(0, 255, (1,), np.uint8), "[256]"),
        (spaces.Box(0, 255, (1,), np.uint8), "[-1]"),
        (spaces.MultiDiscrete([3, 2]), "[2, 2]"),
        (spaces.MultiBinary(2), "[1, 2]"),
        (spaces.Text(5), '"too long"'),
        (spaces.Text(5), "7"),
        (NESTED, '{"go": 3}'),
        (NESTED, '{"go": 3, "with": [[0, 1]]}'),
        (spaces.Discrete(3), "1" * (LONGEST + 1)),
    ],
)
def test_a_value_outside_the_space_is_refused_with_a_reason(space: spaces.Space[Any], text: str) -> None:
    with pytest.raises(ValueError, match="it "):
        read(space, text)


def test_a_space_without_a_text_form_is_refused() -> None:
    with pytest.raises(TypeError, match="Graph"):
        describe(spaces.Graph(spaces.Discrete(2), None))


def test_an_environment_that_cannot_be_made_says_why() -> None:
    with pytest.raises(EnvironmentMissing, match="LunarLander-v3 needs more packages"):
        environment_spec("gymnasium:LunarLander-v3").make()
    with pytest.raises(EnvironmentFailure, match="GymV21Environment-v0"):
        environment_spec("gymnasium:GymV21Environment-v0").make()


def test_there_is_no_solver_and_the_one_tool_is_the_action_itself() -> None:
    found = environment_spec("gymnasium:CartPole-v1")
    with pytest.raises(NotImplementedError):
        found.make().oracle()
    assert found.text_of("act", {"action": "left"}) == "left"
    for name, arguments in (("act", {}), ("act", {"action": 1}), ("go", {"action": "left"})):
        with pytest.raises(ValueError, match="the tool act"):
            found.text_of(name, arguments)


def test_closing_twice_is_allowed() -> None:
    env = environment_spec("gymnasium:Blackjack-v1").make()
    env.reset("seed-0", 0)
    env.close()
    env.close()
    with pytest.raises(ValueError, match="reset"):
        env.step("hit")
