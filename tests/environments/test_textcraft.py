"""TextCraft: its goals, splits, rules and solver."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from env_adapters import environment_spec
from env_adapters.protocol import Environment, Transition, UnknownTask
from env_adapters.textcraft.spec import make_spec

ROOT = Path(__file__).parents[2]
TEXTCRAFT = environment_spec("textcraft")
ALL = [task for split in TEXTCRAFT.splits() for task in TEXTCRAFT.tasks(split)]


def solve(env: Environment) -> list[Transition]:
    seen = [env.step(env.oracle())]
    while not seen[-1].terminated:
        assert len(seen) < 60
        seen.append(env.step(env.oracle()))
    return seen


def play(task: str, *answers: str) -> list[Transition]:
    env = TEXTCRAFT.make()
    env.reset(task, 0)
    return [env.step(answer) for answer in answers]


def digest(seed: int = 0) -> str:
    """Return a digest of everything a player can see: the tasks, the first messages, and a solved episode of each."""
    env, seen = make_spec().make(), hashlib.sha256()
    for task in ALL:
        seen.update(repr((task, env.reset(task, seed))).encode())
        seen.update(repr(solve(env)).encode())
    return seen.hexdigest()


def test_the_goals_are_the_544_of_agentgym_by_depth() -> None:
    assert Counter(task.split("/")[0] for task in ALL) == {"1": 125, "2": 291, "3": 117, "4": 11}
    assert len(set(ALL)) == 544


def test_the_oracle_solves_every_goal_with_actions_that_all_work() -> None:
    turns = []
    for task in ALL:
        env = TEXTCRAFT.make()
        env.reset(task, 1)
        seen = solve(env)
        turns.append(len(seen))
        assert [s.reward for s in seen] == [0.0] * (len(seen) - 1) + [1.0]
        assert seen[-1].success is True
        assert all(s.observation.startswith(("Got ", "Crafted ")) for s in seen), task
    assert sorted(turns)[len(turns) // 2] == 5
    assert max(turns) == 48


def test_the_oracle_continues_from_any_state() -> None:
    env = TEXTCRAFT.make()
    env.reset("2/birch_boat", 0)
    for answer in ("get 64 oak logs", "craft oak planks using 1 oak logs", "get 3 birch logs", "nonsense"):
        env.step(answer)
    assert [env.oracle() for _ in range(2)] == ["craft 4 birch planks using 1 birch logs"] * 2
    assert [s.observation for s in solve(env)] == ["Crafted 4 birch planks"] * 2 + ["Crafted 1 birch boat"]


def test_the_prompt_lists_a_command_for_every_item_that_the_oracle_crafts() -> None:
    for task in ALL[::7]:
        env = TEXTCRAFT.make()
        reset = env.reset(task, 3)
        listed = reset.messages[-1]["content"]
        assert listed.startswith("Crafting commands:\ncraft ")
        assert listed.endswith(f"\n\nGoal: craft {task.split('/')[1].replace('_', ' ')}.")
        while not (action := env.oracle()).startswith("craft"):
            env.step(action)
        while action.split(" using ")[0] in listed and not env.step(action).terminated:
            action = env.oracle()
        assert action.split(" using ")[0] in listed, task


def test_prompts_stay_short() -> None:
    env = TEXTCRAFT.make()
    for task in ALL:
        messages = env.reset(task, 0).messages
        assert [m["role"] for m in messages] == ["system", "user"]
        assert sum(len(m["content"]) for m in messages) < 900


def test_the_splits_are_disjoint_cover_all_goals_and_every_depth_has_a_fifth_in_test() -> None:
    assert TEXTCRAFT.splits() == ["train", "test"]
    train, test = TEXTCRAFT.tasks("train"), TEXTCRAFT.tasks("test")
    assert not set(train) & set(test)
    assert Counter(task[0] for task in test) == {"1": 25, "2": 58, "3": 23, "4": 2}
    assert len(train) + len(test) == 544
    with pytest.raises(UnknownTask, match="validation"):
        TEXTCRAFT.tasks("validation")


def test_the_same_task_and_seed_give_the_same_text_in_every_process() -> None:
    code = "from tests.environments.test_textcraft import digest; print(digest())"
    digests = {digest()}
    for hash_seed in ("0", "1", "2"):
        environ = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_another_seed_gives_another_prompt_for_the_same_goal() -> None:
    texts = {TEXTCRAFT.make().reset("3/black_bed", seed).messages[-1]["content"] for seed in range(8)}
    assert len(texts) == 8
    assert {text.rpartition("Goal: ")[2] for text in texts} == {"craft black bed."}


def test_many_threads_give_the_same_text_as_one() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert {*pool.map(digest, [0] * 8)} == {digest()}


def test_a_reset_clears_the_last_episode() -> None:
    env = TEXTCRAFT.make()
    env.reset("1/acacia_planks", 0)
    env.step("get 1 acacia logs")
    env.reset("1/acacia_planks", 0)
    assert env.step("inventory").observation == "Inventory: You are not carrying anything."


def test_only_crafting_the_goal_is_a_success() -> None:
    seen = play("1/acacia_planks", "get 4 acacia planks", "get 2 acacia logs", "inventory", "craft 4 acacia planks")
    assert [s.observation for s in seen] == [
        "Could not find acacia planks",
        "Got 2 acacia logs",
        "Inventory: [acacia logs] (2)",
        "Not an action. Use get, craft or inventory.\nDid you mean: craft 4 acacia planks using 1 acacia logs",
    ]
    assert all((s.reward, s.terminated, s.truncated, s.success) == (0.0, False, False, None) for s in seen)
    last = play("1/acacia_planks", "get 2 acacia logs", "craft 4 acacia planks using 1 acacia logs")[-1]
    assert last == Transition("Crafted 4 acacia planks", 1.0, True, success=True)


@pytest.mark.parametrize(
    ("answer", "observation"),
    [
        ("", "Not an action. Use get, craft or inventory."),
        ("I would get 1 stick", "Not an action. Use get, craft or inventory."),
        ("get oak logs", "Not an action. Use get, craft or inventory.\nDid you mean: get 1 oak logs"),
        ("get two oak_logs", "Not an action. Use get, craft or inventory.\nDid you mean: get 1 oak logs"),
        ("open my inventory", "Not an action. Use get, craft or inventory.\nDid you mean: inventory"),
        ("get 2 oak_logs", "Could not find oak_logs\nDid you mean: get 2 oak logs"),
        ("get 0 oak logs", "Could not find oak logs\nDid you mean: get 1 oak logs"),
        ("get 1 unicorn", "Could not find unicorn"),
        ("get 4 planks", "Could not find planks"),
        ("get 1 stick", "Could not find stick"),
        ("craft stick using planks", "Wrong item format: planks"),
        ("craft stick using 2 planks", "Could not find enough items to craft stick"),
        ("craft stick using 2 oak logs", "Could not find a valid recipe for stick"),
        ("craft unicorn using 2 oak logs", "Could not find a valid recipe for unicorn"),
        ("craft oak planks using 2 oak logs", "Could not find a valid recipe for oak planks"),
        ("craft oak planks using 1 oak logs, 1 coal", "Could not find a valid recipe for oak planks"),
        ("craft 99 oak planks using 1 oak logs", "Crafted 4 oak planks"),
    ],
)
def test_every_answer_is_a_transition_with_its_reason(answer: str, observation: str) -> None:
    assert play("1/acacia_planks", "get 9 oak logs", "get 9 coal", answer)[-1] == Transition(
        observation, 0.0, False, valid=not observation.startswith("Not an action")
    )


def test_any_single_kind_of_planks_fits_where_a_command_says_planks() -> None:
    have = ("get 9 oak logs", "craft oak planks using 1 oak logs", "get 9 birch logs")
    mixed = (*have, "craft birch planks using 1 birch logs", "craft stick using 2 oak planks, 2 birch planks")
    assert play("1/acacia_planks", *mixed)[-1].observation == "Could not find a valid recipe for stick"
    assert play("1/acacia_planks", *have, "craft 4 stick using 2 oak planks")[-1].observation == "Crafted 4 stick"
    beds = ("get 9 string", "craft white wool using 4 string", "craft stick using 1 white wool")
    assert play("1/acacia_planks", *beds)[-1].observation == "Could not find a valid recipe for stick"


def test_a_step_after_the_end_or_before_the_reset_is_refused() -> None:
    env = TEXTCRAFT.make()
    for call in (lambda: env.step("inventory"), env.oracle):
        with pytest.raises(ValueError, match="reset"):
            call()
    env.reset("1/acacia_planks", 0)
    solve(env)
    with pytest.raises(ValueError, match="over"):
        env.step("inventory")
    env.reset("1/acacia_planks", 0)
    env.close()
    env.close()
    with pytest.raises(ValueError, match="over"):
        env.step("inventory")


@pytest.mark.parametrize("task", ["", "acacia_planks", "1/unicorn", "2/acacia_planks", "1/acacia planks"])
def test_an_unknown_task_is_refused_with_an_example_of_a_name(task: str) -> None:
    with pytest.raises(UnknownTask, match="1/acacia_planks"):
        TEXTCRAFT.make().reset(task, 0)


def test_instances_do_not_share_their_inventory_and_the_goal_is_shown() -> None:
    one, two = TEXTCRAFT.make(), TEXTCRAFT.make()
    assert one.reset("2/birch_boat", 0).info == {"goal": "birch boat", "depth": 2}
    two.reset("2/birch_boat", 0)
    one.step("get 3 birch logs")
    assert two.step("inventory").observation == "Inventory: You are not carrying anything."
