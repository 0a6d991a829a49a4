"""BabyAI: descriptions match the map, offered actions work, and the solver wins."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from typing import Any

import pytest

from env_adapters import environment_spec
from env_adapters.babyai.level import act, make_level, pose_of, relax, sight_of, world_of
from env_adapters.babyai.oracle import solve
from env_adapters.babyai.spec import LEVELS, TOOLS, UNWINNABLE, make_spec
from env_adapters.babyai.text import FORWARD, LEFT, PICK_UP, RIGHT, Pose, World, describe, look
from env_adapters.protocol import UnknownTask

pytestmark = pytest.mark.filterwarnings("ignore:pkg_resources:UserWarning", "ignore::DeprecationWarning:pygame.*")
BABYAI = environment_spec("babyai")
FAR = {
    "SynthS5R2",
    "SynthSeq",
    "MiniBossLevel",
    "BossLevel",
    "BossLevelNoUnlock",
    "UnlockPickupDist",
    "MoveTwoAcrossS8N9",
}
"""Levels with a map that takes more than 20 actions."""
TRANSCRIPT = """
import hashlib, random
from env_adapters import environment_spec
game, said = environment_spec("babyai").make(), []
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


def test_each_of_the_40_levels_has_25_maps_and_no_task_is_in_both_splits() -> None:
    train, test = BABYAI.tasks("train"), BABYAI.tasks("test")
    assert (len(LEVELS), len(train), len(test)) == (40, 800, 200)
    assert not set(train) & set(test)
    assert not {f"{level}/{seed}" for level, seeds in UNWINNABLE.items() for seed in seeds} & {*train, *test}
    with pytest.raises(UnknownTask):
        BABYAI.tasks("validation")
    with pytest.raises(UnknownTask):
        BABYAI.make().reset("GoToRedBall/99", 0)


@pytest.mark.parametrize("level", LEVELS)
def test_the_solver_wins_the_test_maps_of_every_level(level: str) -> None:
    game = BABYAI.make()
    for task in (task for task in BABYAI.tasks("test") if task.startswith(f"{level}/")):
        game.reset(task, 0)
        turns = [game.step(game.oracle())]
        while not turns[-1].terminated:
            assert len(turns) < 40
            turns.append(game.step(game.oracle()))
        assert (turns[-1].success, turns[-1].reward) == (True, 1.0)
        assert all(turn.valid for turn in turns)
        assert level in FAR or len(turns) <= 20


def test_opening_the_wrong_door_first_fails_and_the_second_of_two_can_be_opened() -> None:
    game = BABYAI.make()
    game.reset("OpenRedBlueDoorsDebug/0", 0)
    answers = ["turn left"] * 3
    while not (turn := game.step("toggle and go through blue closed door 1")).valid:
        game.step(answers.pop())
    assert (turn.terminated, turn.success, turn.reward) == (True, False, 0.0)
    level = make_level("OpenDoorsOrderN4Debug")
    level.reset(seed=0)
    with pytest.raises(NotImplementedError, match="the plan fails"):
        solve(level)  # With minigrid's strict second door.
    relax(level.instrs)
    assert solve(level)


def test_the_solver_continues_from_another_players_state() -> None:
    for task in BABYAI.tasks("test")[3::20]:
        game, rng = BABYAI.make(), random.Random(task)
        game.reset(task, 0)
        for turns in range(80):
            turn = game.step(game.random(rng) if turns < 8 and turns % 2 else game.oracle())
            if turn.terminated:
                break
        assert turn.success, task


def test_every_map_left_out_has_its_only_key_locked_in() -> None:
    make_spec().make()  # Registers the levels.
    for name, seeds in UNWINNABLE.items():
        for seed in seeds:
            level = make_level(name)
            level.reset(seed=seed)
            locked = [thing for thing in level.grid.grid if thing and thing.type == "door" and thing.is_locked]
            rooms = [room for row in level.room_grid for room in row if any(door in locked for door in room.doors)]
            keys = [
                (n % level.width, n // level.width)
                for n, thing in enumerate(level.grid.grid)
                if thing and thing.type == "key" and thing.color == locked[0].color
            ]
            assert len(locked) == 1 and len(keys) == 1
            assert any(room.locked and room.pos_inside(*keys[0]) for room in rooms)


def test_the_description_matches_minigrids_view_of_objects_walls_and_hands() -> None:
    carried_something = 0
    for task in BABYAI.tasks("train")[::23]:
        name, _, seed = task.partition("/")
        level = make_level(name)
        level.reset(seed=int(seed))
        rng = random.Random(task)
        for _ in range(10):
            grid, visible = level.gen_obs_grid()  # Turned so that the agent, at (3, 6), faces up.
            seen = {
                (6 - y, x - 3): grid.get(x, y) for x in range(7) for y in range(7) if visible[x, y] and (x, y) != (3, 6)
            }
            theirs = {
                spot: f"{cell.color} {_state(cell)}{cell.type}"
                for spot, cell in seen.items()
                if cell and cell.type != "wall"
            }
            lines = {"ahead": (1, 0), "left": (0, -1), "right": (0, 1)}
            walls = set()
            for side, (ahead, right) in lines.items():
                line = [seen.get((n * ahead, n * right)) for n in range(7)]
                walls |= {
                    (n, side)
                    for n, cell in enumerate(line)
                    if cell and cell.type == "wall" and not any(nearer and nearer.type == "wall" for nearer in line[:n])
                }
            sight = sight_of(level)
            ours = {(thing.ahead, thing.right): thing.name.rpartition(" ")[0] for thing in sight.things}
            assert ours == theirs, task
            assert set(sight.walls) == walls, task
            assert len({thing.name for thing in sight.things}) == len(sight.things)
            carried = f"{level.carrying.color} {level.carrying.type}" if level.carrying else None
            carried_something += carried is not None
            assert f"You carry: {carried or 'nothing'}." in describe(sight, carried)
            assert any(action.startswith("pick up") for action in sight.moves) <= (carried is None)
            picks = [action for action in sight.moves if action.startswith("pick up")]
            move = sight.moves[rng.choice(picks or list(sight.moves))]
            if any(act(level, move.primitives)[1:]):
                break
    assert carried_something > 50


def _state(cell: Any) -> str:
    if cell.type != "door":
        return ""
    return "open " if cell.is_open else "locked " if cell.is_locked else "closed "


def drawn(*rows: str) -> World:
    names = {".": None, "#": "wall", "r": "red ball", "b": "grey box", "L": "green locked door", "O": "green open door"}
    return World(len(rows[0]), [names[cell] for row in rows for cell in row])


def test_the_text_numbers_objects_by_distance_and_lists_the_possible_actions() -> None:
    room = drawn("#########", "#.......#", "#.....r.#", "#.......#", "#..b....#", "#...r...#", "#.......#", "#########")
    sight = look(room, Pose(4, 6, 3), "blue key")
    assert describe(sight, "blue key") == (
        "You see: red ball 1 (1 ahead); grey box 1 (2 ahead, 1 left); red ball 2 (4 ahead, 2 right). "
        "Walls: 6 ahead. You carry: blue key.\nActions: turn left, turn right, go to grey box 1, go to red ball 2"
    )
    assert sight.moves["go to grey box 1"].primitives == [LEFT, FORWARD, RIGHT, FORWARD]
    assert look(room, Pose(4, 6, 3), None).moves["pick up red ball 1"].primitives == [PICK_UP]
    assert list(look(room, Pose(4, 6, 1), "blue key").moves) == ["turn left", "turn right"]


def test_a_locked_door_opens_with_its_key_only_and_an_open_one_is_walked_through() -> None:
    hall = drawn("#####", "#...L", "#####")
    for carried, offered in ((None, False), ("blue key", False), ("green key", True)):
        sight = look(hall, Pose(1, 1, 0), carried)
        assert ("toggle and go through green locked door 1" in sight.moves) == offered
        assert "go to green locked door 1" in sight.moves
        assert ("toggle" in look(hall, Pose(3, 1, 0), carried).moves) == offered
    doorway = drawn("#####", "#.O.#", "#####")
    through = look(doorway, Pose(1, 1, 0), None).moves["go through green open door 1"]
    assert through.primitives == [FORWARD, FORWARD]
    standing = look(doorway, Pose(2, 1, 0), None)
    assert "You stand in the green open door." in describe(standing, None)
    assert list(standing.moves) == ["turn left", "turn right", "move forward"]
    assert look(doorway, Pose(1, 1, 2), None).things == []


def test_every_offered_action_changes_something_or_turns() -> None:
    for task in BABYAI.tasks("train")[::40]:
        name, _, seed = task.partition("/")
        level = make_level(name)
        level.reset(seed=int(seed))
        for action, move in sight_of(level).moves.items():
            level.reset(seed=int(seed))
            before = (world_of(level), pose_of(level), level.carrying)
            act(level, move.primitives)
            changed = (world_of(level), pose_of(level), level.carrying) != before
            assert changed or not move.primitives, (task, action)


def test_the_same_task_gives_the_same_episode_in_another_process_with_any_hash_seed() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", TRANSCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert len(said.pop().strip()) == hashlib.sha256().digest_size * 2


def test_pick_up_is_accepted_as_one_word_and_with_markup() -> None:
    game = BABYAI.make()
    task = next(
        task for task in BABYAI.tasks("train") if "pick up red ball 1" in game.reset(task, 0).messages[1]["content"]
    )
    for answer in ("pickup the red ball 1", "Thought: near.\nAction: **Pick up red ball 1**.", "pick up red ball"):
        game.reset(task, 0)
        assert game.step(answer).valid, answer


def test_an_impossible_action_costs_only_the_turn() -> None:
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


def test_tool_calls_and_text_are_the_same_actions() -> None:
    names = {tool["function"]["name"] for tool in TOOLS}
    assert BABYAI.text_of("go_to", {"thing": "red ball 1"}) == "go to red ball 1"
    through = BABYAI.text_of("toggle_and_go_through", {"door": "grey closed door 1"})
    assert through == "toggle and go through grey closed door 1"
    for name in names - {"go_to", "pick_up", "go_through", "toggle_and_go_through"}:
        assert BABYAI.text_of(name, {}) == name.replace("_", " ")
    for name, arguments in (("jump", {}), ("go_to", {}), ("go_to", {"thing": 3}), ("drop", {"thing": "key"})):
        with pytest.raises(ValueError, match=r"tool|arguments"):
            BABYAI.text_of(name, arguments)


def test_a_level_can_be_described_from_its_grid() -> None:
    level = make_level("GoToRedBall")
    level.reset(seed=1)
    assert look(world_of(level), pose_of(level), None).moves
