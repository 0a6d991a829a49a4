"""ScienceWorld in shared Java processes: its own solutions win, and an episode depends only on task and seed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from env_adapters import environment_spec
from env_adapters.protocol import EnvironmentFailure, EnvironmentMissing, UnknownTask
from env_adapters.sciworld import java as sciworld_java
from env_adapters.sciworld.game import INVALID, MOVES, NO_CHOICE, SciWorld, bare
from env_adapters.sciworld.tasks import MORE, PAPER

SCIWORLD = environment_spec("sciworld")
SOLVED = (
    "use-thermometer",
    "power-component",
    "find-living-thing",
    "chemistry-mix-paint-tertiary-color",
    "lifespan-longest-lived-then-shortest-lived",
    "inclined-plane-determine-angle",
)
PLAYED = ("find-animal/7", "chemistry-mix-paint-secondary-color/3", "power-component/2")


@pytest.fixture(autouse=True, scope="module")
def java_ends() -> Iterator[None]:
    """Stop all Java processes after the tests."""
    yield
    sciworld_java.JAVAS.stop()


def begun(task: str, seed: int = 0) -> SciWorld:
    game: SciWorld = SCIWORLD.make()  # type: ignore[assignment]
    game.reset(task, seed)
    return game


def transcript(task: str, *, looking: bool = True) -> Iterator[str]:
    """Return the transcript of a partly random walk; `looking` also lists the valid actions without taking one."""
    game: SciWorld = SCIWORLD.make()  # type: ignore[assignment]
    yield game.reset(task, 5).messages[1]["content"]
    rng = random.Random(task)
    for turn in range(5):
        if looking and turn == 1:
            game.random(random.Random(0))
        action = game.random(rng) if turn == 2 else game.oracle()
        result = game.step(action)
        yield f"{action}: {result}"
        if result.terminated:
            break
    game.close()


def digest(_: int = 0) -> str:
    said = ["\n".join(transcript(task, looking=False)) for task in PLAYED]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def elsewhere(code: str, directory: Path) -> subprocess.Popen[str]:
    """Run code in a separate Python process with its own working directory."""
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=directory,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": paths},
    )


@pytest.fixture(scope="module")
def alone() -> str:
    """The transcripts of walks that run one after another."""
    return digest()


def test_types_and_variations_match_the_package() -> None:
    java = sciworld_java.JAVAS.take()

    def counts() -> dict[str, int]:
        world = java.world()
        return {name: world.getTaskMaxVariations(name) for name in java.texts(world.getTaskNames())}

    assert java.call(counts) == PAPER | MORE
    sciworld_java.JAVAS.give_back(java)


def test_the_splits_are_disjoint_and_every_type_has_a_fifth_for_testing() -> None:
    tasks = {split: SCIWORLD.tasks(split) for split in SCIWORLD.splits()}
    assert {split: len(its) for split, its in tasks.items()} == {
        "train": 3712,
        "test": 927,
        "more_train": 2055,
        "more_test": 513,
    }
    assert len({task for its in tasks.values() for task in its}) == 7207
    types = {split: {task.split("/")[0] for task in its} for split, its in tasks.items()}
    assert types["train"] == types["test"] == set(PAPER) and types["more_train"] == types["more_test"] == set(MORE)
    with pytest.raises(UnknownTask):
        SCIWORLD.tasks("validation")
    for unknown in ("boil", "boil/30", "boil/-1", "boil/01", "cook/1", ""):
        with pytest.raises(UnknownTask):
            SCIWORLD.make().reset(unknown, 0)


@pytest.mark.parametrize("name", SOLVED)
def test_the_simulators_own_solution_wins_the_whole_reward(name: str) -> None:
    split = "test" if name in PAPER else "more_test"
    task = next(task for task in SCIWORLD.tasks(split) if task.startswith(f"{name}/"))
    game, rewards = begun(task), list[float]()
    for _ in range(100):
        turn = game.step(game.oracle())
        rewards.append(turn.reward)
        if turn.terminated:
            break
    assert turn.terminated and turn.success is True and turn.info["raw_score"] == 100
    assert min(rewards) >= 0 and sum(rewards) == pytest.approx(1)
    with pytest.raises(ValueError, match="over"):
        game.step("look around")
    game.close()
    game.close()


def test_a_wrong_focus_is_a_failure_that_takes_no_reward_away() -> None:
    game = begun("find-living-thing/0")
    first = [game.step(game.oracle()).reward for _ in range(3)]
    assert sum(first) > 0
    turn = game.step("focus on air")
    assert (turn.reward, turn.terminated, turn.success, turn.info["raw_score"]) == (0, True, False, -100)
    game.close()


def test_starting_over_earns_no_reward_twice() -> None:
    game = begun("find-living-thing/0")
    path = ["open door to greenhouse", "go to greenhouse"]
    once = sum(game.step(action).reward for action in path)
    assert once > 0
    back = ["reset task", "open door to hallway", "go to hallway", *path]
    assert [game.step(action).reward for action in back] == [0.0] * len(back)
    game.close()


def test_an_ambiguous_action_is_resolved_by_a_number_from_the_list() -> None:
    for answer in ("3", "Action: 3", "3: open door between workshop and hallway"):
        game = begun("boil/0")
        asked = game.step("open door")
        assert asked.valid and "\n3:\topen door" in asked.observation
        assert game.random(random.Random(1)) in "0123456"
        chosen = game.step(answer)
        assert (chosen.valid, chosen.observation) == (True, "The door is now open.")
        game.close()
    game = begun("boil/0")
    for answer in ("99", "the kitchen's"):
        game.step("open door")
        assert game.step(answer).observation == NO_CHOICE
    assert game.step("3").observation == INVALID
    game.close()


@pytest.mark.parametrize("answer", ["", "  \n ", "fly to the moon", "\ud800", "漢字", "x" * 100_000, "pick up " * 900])
def test_an_answer_without_an_action_gets_the_possible_ones(answer: str) -> None:
    game = begun("boil/0")
    turn = game.step(answer)
    assert (turn.observation, turn.reward, turn.terminated, turn.valid) == (INVALID, 0.0, False, False)
    game.close()


def test_too_many_moves_truncate_the_episode() -> None:
    game = begun("boil/0")
    turns = [game.step("look around")]
    while not turns[-1].truncated and len(turns) < 30:
        turns.append(game.step("wait"))
    assert [turn.info["moves"] > MOVES for turn in turns] == [False] * (len(turns) - 1) + [True]
    assert (turns[-1].terminated, turns[-1].success) == (False, None)
    game.close()


def test_a_tool_call_and_text_are_the_same_action() -> None:
    assert bare(SCIWORLD.text_of("act", {"action": "open\ndoor"})) == "open door"
    for name, arguments in (("open", {}), ("act", {}), ("act", {"action": 3}), ("act", {"action": "a", "more": 1})):
        with pytest.raises(ValueError, match="act"):
            SCIWORLD.text_of(name, arguments)


def test_an_episode_is_the_same_among_others_and_while_observed(alone: str) -> None:
    walks = {task: transcript(task) for task in PLAYED}
    among: dict[str, list[str]] = {task: [] for task in PLAYED}
    for _ in range(6):
        for task in reversed(PLAYED):
            among[task] += [said for said in [next(walks[task], None)] if said is not None]
    assert hashlib.sha256("\n".join("\n".join(among[task]) for task in PLAYED).encode()).hexdigest() == alone


def test_an_episode_is_the_same_in_another_process_and_leaves_its_working_directory_empty(
    alone: str, tmp_path: Path
) -> None:
    with elsewhere("from tests.environments.test_sciworld import digest; print(digest())", tmp_path) as other:
        assert other.communicate()[0].strip() == alone
    assert list(tmp_path.iterdir()) == []


def test_episodes_in_parallel_threads_do_not_disturb_each_other(alone: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert {*pool.map(digest, range(4))} == {alone}


def test_a_process_that_dies_or_hangs_fails_its_own_episodes_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sciworld_java, "SEATS", 2)
    monkeypatch.setattr(sciworld_java, "CALL_S", 8.0)
    sciworld_java.JAVAS.stop()
    games = [begun("boil/0") for _ in range(3)]
    javas = [game._java for game in games if game._java is not None]
    assert javas[0] is javas[1] is not javas[2]
    javas[0].process.kill()
    for game in games[:2]:
        with pytest.raises(EnvironmentFailure, match="Java process"):
            game.step("look around")
    assert games[2].step("look around").valid
    os.kill(javas[2].process.pid, signal.SIGSTOP)
    with pytest.raises(EnvironmentFailure, match="hung"):
        games[2].step("look around")
    assert javas[2].process.poll() is not None
    for game in games[:2]:
        game.reset("boil/0", 0)
        assert game.step("look around").valid
    for game in games:
        game.close()


def test_java_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import time; from tests.environments.test_sciworld import begun; "
        "print(begun('boil/0')._java.process.pid, flush=True); time.sleep(600)"
    )
    with elsewhere(code, tmp_path) as parent:
        assert parent.stdout is not None
        java = psutil.Process(int(parent.stdout.readline()))
        assert java.name() == "java"
        parent.kill()
    _, alive = psutil.wait_procs([java], timeout=30)
    assert not alive


def test_without_java_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SCIWORLD.missing() is None
    monkeypatch.setenv("PATH", "")
    assert SCIWORLD.missing() == "apt-get install default-jre-headless"
    with pytest.raises(EnvironmentMissing, match="default-jre-headless"):
        SCIWORLD.make()


def test_what_is_already_so_at_the_start_earns_nothing_and_a_win_still_earns_1() -> None:
    game = begun("lifespan-longest-lived/3")
    for action in ("zzz", "look around"):
        turn = game.step(action)
        assert (turn.reward, turn.info["raw_score"]) == (0.0, 50)
    assert game.step(game.oracle()).reward == 1.0
    game.reset("lifespan-longest-lived-then-shortest-lived/3", 0)
    total = 0.0
    while not (turn := game.step(game.oracle())).terminated:
        total += turn.reward
    assert turn.success and total + turn.reward == pytest.approx(1.0)
    game.close()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [("opne door to kitchen", "open X"), ("pour", "pour X in Y"), ("connect battery", "connect X to Y")],
)
def test_an_action_that_is_not_understood_is_answered_with_its_form(answer: str, hint: str) -> None:
    game = begun("boil/0")
    assert game.step(answer).observation == f"{INVALID}\nDid you mean: {hint}"
    game.close()
