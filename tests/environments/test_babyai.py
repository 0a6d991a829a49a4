"""BabyAI: what is said of a map is true of it, what is offered works, and its solver wins."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys

import pytest

from env_adapters import family
from env_adapters.babyai import LEVELS, TOOLS, UNWINNABLE, _make, act, make_family, pose_of, sight_of, world_of
from env_adapters.babyai_text import look
from env_adapters.protocol import UnknownTask

pytestmark = pytest.mark.filterwarnings("ignore:pkg_resources:UserWarning", "ignore::DeprecationWarning:pygame.*")
BABYAI = family("babyai")
FAR = {"SynthS5R2", "SynthSeq", "MiniBossLevel", "BossLevel", "BossLevelNoUnlock", "UnlockPickupDist",
       "MoveTwoAcrossS8N9"}
"""Levels of which some map takes more than 20 actions."""
TRANSCRIPT = """
import hashlib, random
from env_adapters import family
game, said = family("babyai").make(), []
for task in ("GoToObjMazeS7/3", "KeyInBox/1", "BossLevel/2"):
    said.append(game.reset(task, 0).messages[1]["content"])
    rng = random.Random(task)
    for _ in range(12):
        turn = game.step(game.random(rng))
        said.append(turn.observation)
        if turn.terminated or turn.truncated:
            break
print(hashlib.sha256("\\n".join(said).encode()).hexdigest())
"""


def test_there_are_25_maps_of_each_of_the_40_levels_and_no_task_is_in_both_splits() -> None:
    train, test = BABYAI.tasks("train"), BABYAI.tasks("test")
    assert (len(LEVELS), len(train), len(test)) == (40, 800, 200)
    assert not set(train) & set(test)
    assert not {f"{level}/{seed}" for level, seeds in UNWINNABLE.items() for seed in seeds} & {*train, *test}
    with pytest.raises(UnknownTask):
        BABYAI.tasks("validation")
    with pytest.raises(UnknownTask):
        BABYAI.make().reset("GoToRedBall/99", 0)


@pytest.mark.parametrize("level", LEVELS)
def test_the_solver_wins_a_map_of_every_level(level: str) -> None:
    game = BABYAI.make()
    task = next(task for task in BABYAI.tasks("test") if task.startswith(f"{level}/"))
    game.reset(task, 0)
    turns = 0
    while turns < 60:
        turns += 1
        turn = game.step(game.oracle())
        assert turn.valid
        if turn.terminated:
            break
    assert (turn.success, turn.reward) == (True, 1.0)
    assert level in FAR or turns <= 20


def test_maps_that_are_left_out_have_their_only_key_locked_in() -> None:
    make_family().make()  # Registers the levels.
    for name, seeds in UNWINNABLE.items():
        for seed in seeds:
            level = _make(name)
            level.reset(seed=seed)
            locked = [thing for thing in level.grid.grid if thing and thing.type == "door" and thing.is_locked]
            rooms = [room for row in level.room_grid for room in row if any(door in locked for door in room.doors)]
            keys = [(n % level.width, n // level.width) for n, thing in enumerate(level.grid.grid)
                    if thing and thing.type == "key" and thing.color == locked[0].color]
            assert len(locked) == 1 and len(keys) == 1
            assert any(room.locked and room.pos_inside(*keys[0]) for room in rooms)


def test_what_is_seen_is_what_minigrid_says_the_agent_sees() -> None:
    for task in BABYAI.tasks("train")[::23]:
        name, _, seed = task.partition("/")
        level = _make(name)
        level.reset(seed=int(seed))
        rng = random.Random(task)
        for _ in range(6):
            grid, visible = level.gen_obs_grid()
            theirs = {(6 - y, x - 3) for x in range(7) for y in range(7)
                      if visible[x, y] and (cell := grid.get(x, y)) and cell.type != "wall" and (x, y) != (3, 6)}
            sight = sight_of(level)
            assert {(thing.ahead, thing.right) for thing in sight.things} == theirs, task
            move = rng.choice(list(sight.moves.values()))
            if any(act(level, move.primitives)[1:]):
                break


def test_every_action_that_is_offered_changes_something_or_turns() -> None:
    for task in BABYAI.tasks("train")[::40]:
        name, _, seed = task.partition("/")
        level = _make(name)
        level.reset(seed=int(seed))
        for action, move in sight_of(level).moves.items():
            level.reset(seed=int(seed))
            before = (world_of(level), pose_of(level), level.carrying)
            act(level, move.primitives)
            changed = (world_of(level), pose_of(level), level.carrying) != before
            assert changed or not move.primitives, (task, action)


def test_the_same_task_is_the_same_episode_in_another_process_whatever_its_hash_seed() -> None:
    said = {subprocess.run([sys.executable, "-W", "ignore", "-c", TRANSCRIPT], capture_output=True, text=True,
                           check=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")}
    assert len(said) == 1
    assert len(said.pop().strip()) == hashlib.sha256().digest_size * 2


def test_pick_up_may_be_written_in_one_word_and_with_trimmings() -> None:
    game = BABYAI.make()
    task = next(task for task in BABYAI.tasks("train")
                if "pick up red ball 1" in game.reset(task, 0).messages[1]["content"])
    for answer in ("pickup the red ball 1", "Thought: near.\nAction: **Pick up red ball 1**.", "pick up red ball"):
        game.reset(task, 0)
        assert game.step(answer).valid, answer


def test_an_answer_that_is_no_possible_action_costs_nothing_but_the_turn() -> None:
    game = BABYAI.make()
    first = game.reset("GoToObjMazeS7/3", 0).messages[1]["content"]
    for answer in ("", "fly to the moon", "pick up purple dragon 7", "x" * 100_000):
        turn = game.step(answer)
        assert (turn.valid, turn.reward, turn.terminated) == (False, 0.0, False)
        assert turn.observation.splitlines()[-1] == first.splitlines()[-1]


def test_the_levels_own_limit_truncates() -> None:
    game = BABYAI.make()
    limit = game.reset("GoToObjMazeS7/3", 0).info["max_primitive_steps"]
    for _ in range(limit):
        turn = game.step("turn left")
        if turn.truncated:
            break
    assert (turn.truncated, turn.terminated, turn.success, turn.reward) == (True, False, False, 0.0)
    with pytest.raises(ValueError, match="over"):
        game.step("turn left")


def test_tools_are_the_same_actions() -> None:
    names = {tool["function"]["name"] for tool in TOOLS}
    assert BABYAI.text_of("go_to", {"thing": "red ball 1"}) == "go to red ball 1"
    through = BABYAI.text_of("toggle_and_go_through", {"door": "grey closed door 1"})
    assert through == "toggle and go through grey closed door 1"
    for name in names - {"go_to", "pick_up", "go_through", "toggle_and_go_through"}:
        assert BABYAI.text_of(name, {}) == name.replace("_", " ")
    for name, arguments in (("jump", {}), ("go_to", {}), ("go_to", {"thing": 3}), ("drop", {"thing": "key"})):
        with pytest.raises(ValueError, match=r"tool|arguments"):
            BABYAI.text_of(name, arguments)


def test_looking_needs_no_minigrid() -> None:
    level = _make("GoToRedBall")
    level.reset(seed=1)
    assert look(world_of(level), pose_of(level), None).moves
