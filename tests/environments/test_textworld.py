"""TextWorld: descriptions match the game, the solver wins from any state, and a game is the same everywhere."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from env_adapters import environment_spec
from env_adapters.protocol import Reset, Transition, UnknownTask
from env_adapters.textworld.games import LEVELS, load
from env_adapters.textworld.spec import TOOLS, Game
from env_adapters.textworld.text import find_command
from installation.packages import OPTIONAL

pytestmark = [
    pytest.mark.filterwarnings("ignore:Not enough variation"),
    pytest.mark.skipif(
        find_spec("textworld") is None,
        reason=f"textworld is not installed: {OPTIONAL['textworld']}, then `python3 run.py setup`",
    ),
]
ROOT = Path(__file__).parents[2]
TEXTWORLD = environment_spec("textworld")
SOME = ["simple-1", "simple-3", "coin-4", "treasure-2", "cooking-2", "cooking-4"]
"""Levels of every challenge."""
TRANSCRIPT = """
import hashlib, random, sys
from tests.environments.test_textworld import SOME, play
said = [f"{level} {hashlib.sha256(repr(play(f'{level}/7', random.Random(level))).encode()).hexdigest()}"
        for level in SOME[::int(sys.argv[1])]]
print("\\n".join(sorted(said)))
"""


def begun(task: str) -> tuple[Game, Reset]:
    game = TEXTWORLD.make()
    assert isinstance(game, Game)
    return game, game.reset(task, 0)


def solve(game: Game) -> list[Transition]:
    turns = [game.step(game.oracle())]
    while not turns[-1].terminated:
        assert len(turns) < 60
        turns.append(game.step(game.oracle()))
    return turns


def play(task: str, rng: random.Random) -> list[object]:
    """Return the transcript of a random player and the solver taking turns."""
    game, reset = begun(task)
    said: list[object] = [reset]
    for number in range(20):
        try:
            turn = game.step(game.random(rng) if number % 3 == 1 else game.oracle())
        except NotImplementedError:
            break
        said.append(turn)
        if turn.terminated:
            break
    return said


def test_each_level_has_50_games_and_none_is_in_both_splits() -> None:
    train, test = TEXTWORLD.tasks("train"), TEXTWORLD.tasks("test")
    assert (len(LEVELS), len(train), len(test)) == (14, 560, 140)
    assert len({*train, *test}) == 700
    with pytest.raises(UnknownTask):
        TEXTWORLD.tasks("validation")


@pytest.mark.parametrize("level", LEVELS)
def test_the_solver_wins_every_level_without_compiling_and_rewards_sum_up_to_one(
    level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("textworld.GameMaker.compile")
    game, reset = begun(f"{level}/7")
    turns = solve(game)
    assert (turns[-1].success, turns[-1].info["score"]) == (True, reset.info["max_score"])
    assert sum(turn.reward for turn in turns) == pytest.approx(1)
    assert all(turn.valid and turn.reward >= 0 and not turn.truncated for turn in turns)


def test_the_solver_continues_from_a_random_players_state() -> None:
    for task in ("coin-2/7", "cooking-3/7"):
        game, _ = begun(task)
        for number in range(6):
            moves = [
                command
                for command in map(game.random, map(random.Random, range(number, number + 40)))
                if command.partition(" ")[0] in ("go", "look", "open", "examine")
            ]
            game.step(moves[0])
        assert solve(game)[-1].success


def test_a_solver_without_a_plan_reports_it_at_once_and_the_game_continues() -> None:
    game, _ = begun("cooking-4/23")  # The package's own tracker makes a circular plan here and does not return.
    rng = random.Random(123)
    for _ in range(40):
        assert not game.step(game.random(rng)).terminated
    for _ in range(2):
        with pytest.raises(NotImplementedError, match="no winning plan from here"):
            game.oracle()
        assert game.step("look").valid


def test_a_game_of_every_challenge_is_the_same_in_every_process_after_any_other_game() -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", TRANSCRIPT, order],
            cwd=ROOT,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
        )
        for hash_seed, order in (("0", "1"), ("7", "-1"))
    ]
    said = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(said) == 1
    assert len(said.pop().splitlines()) == len(SOME)


def test_a_random_player_only_takes_listed_and_possible_actions() -> None:
    for level in ("simple-3", "coin-2", "treasure-1", "cooking-3"):
        game, reset = begun(f"{level}/7")
        rng, commands = random.Random(level), reset.info["commands"]
        for _ in range(20):
            said = game.random(rng)
            turn = game.step(said)
            assert said in commands
            assert turn.valid
            commands = turn.info["commands"]
            if turn.terminated:
                break


def test_games_in_parallel_threads_equal_games_alone() -> None:
    tasks = ["coin-1/7", "cooking-1/7", "treasure-1/7", "cooking-1/7"] * 2
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda task: play(task, random.Random(task)), tasks))
    assert together == [play(task, random.Random(task)) for task in tasks]


def test_simple_games_of_the_test_split_ask_for_a_food_of_their_own() -> None:
    foods = {"garlic", "kiwi", "carrot"}
    for split, wanted in (("test", True), ("train", False)):
        tasks = [task for task in TEXTWORLD.tasks(split) if task.startswith("simple-2/")][:2]
        for task in tasks:
            names = {info.name for info in load(task).infos.values()}
            assert bool(names & foods) is wanted


def test_a_room_lists_its_exits_doors_and_visible_contents() -> None:
    game, reset = begun("simple-1/7")
    room = reset.messages[-1]["content"]
    assert "-= Bedroom =-" in room
    assert "antique trunk (closed)" in room
    assert "Exits: east through wooden door (locked)." in room
    assert game.step("inventory").observation == "You carry: nothing."
    seen = [game.step(f"open {thing}").observation for thing in ("antique trunk", "chest drawer")]
    assert sum("in it: old key" in text for text in seen) == 1
    assert sum("in it: nothing" in text for text in seen) == 1
    assert "Your score is now" in game.step("take old key").observation
    assert game.step("inventory").observation == "You carry: old key."
    assert game.step("unlock the wooden door").valid
    assert "Exits: east through wooden door (closed)." in game.step("look").observation


def test_every_listed_exit_and_object_can_be_used() -> None:
    for task in ("cooking-3/7", "treasure-2/7"):
        _, reset = begun(task)
        commands = reset.info["commands"]
        text = reset.messages[-1]["content"]
        ways = {command.removeprefix("go ") for command in commands if command.startswith("go ")}
        exits = text.rpartition("Exits: ")[2].rstrip(".").split(", ")
        assert {way for way in exits if "closed" not in way and "locked" not in way} >= ways
        things = [command.removeprefix("examine ") for command in commands if command.startswith("examine ")]
        assert all(thing in text for thing in things)


def test_the_cookbook_explains_cooking_and_spoiling_an_ingredient_loses() -> None:
    game, _ = begun("cooking-2/7")
    while (action := game.oracle()) != "examine cookbook":
        game.step(action)
    recipe = game.step("read the cookbook").observation
    assert "Ingredients:" in recipe
    assert "prepare meal" in recipe
    while not (action := game.oracle()).startswith("cook "):
        game.step(action)
    game.step(action)
    burned = game.step(action)
    assert (burned.terminated, burned.success, burned.reward) == (True, False, 0.0)
    assert burned.observation.endswith("You have lost.")


@pytest.mark.parametrize("answer", ["", " \n", "fly to the moon", "open " * 100, "go up", "take", "*", "(a|b)+$[", "é"])
def test_an_answer_without_a_command_gets_the_list_of_commands(answer: str) -> None:
    game, _ = begun("coin-1/7")
    turn = game.step(answer)
    assert (turn.valid, turn.reward, turn.terminated, turn.success) == (False, 0.0, False, None)
    assert "go DIRECTION" in turn.observation
    assert turn.info["moves"] == 0


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Open the trunk", "open trunk"),
        ("north", "go north"),
        ("walk north", "go north"),
        ("get coin", "take coin"),
        ("pick up the old key", "take old key from trunk"),
        ("read BBQ", "examine BBQ"),
        ("x bbq", "examine BBQ"),
        ("cook egg", None),
        ("unlock gate", "unlock gate with American key"),
        ("prepare the meal", "prepare meal"),
        ("take", None),
        ("o", None),
        ("l", "look"),
        ("cook egg with stove", "cook egg with stove"),
    ],
)
def test_a_command_is_accepted_in_other_words_if_it_is_unambiguous(said: str, meant: str | None) -> None:
    commands = [
        "open trunk",
        "go north",
        "take coin",
        "take old key from trunk",
        "examine BBQ",
        "look",
        "prepare meal",
        "cook egg with stove",
        "cook egg with oven",
        "unlock gate with American key",
    ]
    assert find_command(said, commands) == meant


@pytest.mark.parametrize("task", ["", "coin-1", "coin-1/50", "coin-1/01", "coin-9/0", "coin-1/../x", "coin-1/-1"])
def test_an_unknown_task_is_refused_with_an_example_of_a_name(task: str) -> None:
    with pytest.raises(UnknownTask, match="cooking-2/17"):
        TEXTWORLD.make().reset(task, 0)
    with pytest.raises(UnknownTask, match="cooking-2/17"):
        load(task)


def test_a_tool_call_is_a_command_and_others_are_refused() -> None:
    assert [tool["function"]["name"] for tool in TOOLS] == ["act"]
    assert TEXTWORLD.text_of("act", {"command": "open\ntrunk "}) == "open trunk"
    for name, arguments in (
        ("go", {"command": "x"}),
        ("act", {}),
        ("act", {"command": 3}),
        ("act", {"command": " "}),
        ("act", {"command": "x", "y": 1}),
    ):
        with pytest.raises(ValueError):
            TEXTWORLD.text_of(name, arguments)


def test_a_step_before_the_reset_or_after_the_end_is_refused() -> None:
    fresh = TEXTWORLD.make()
    over, _ = begun("coin-1/7")
    solve(over)
    closed, _ = begun("coin-1/7")
    closed.close()
    closed.close()
    for game in (fresh, over, closed):
        for call in (lambda game=game: game.step("look"), game.oracle, lambda game=game: game.random(random.Random(0))):
            with pytest.raises(ValueError, match="reset"):
                call()
