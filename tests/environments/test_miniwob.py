"""MiniWoB++ in a real Chromium: tasks are reproducible, solvers win, and pages reach nothing else."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys

import pytest

from env_adapters import environment_spec
from env_adapters.miniwob.pages import LEFT_OUT, PAGES
from env_adapters.miniwob.spec import MiniWob
from env_adapters.protocol import UnknownTask

MINIWOB = environment_spec("miniwob")
SOLVED = (
    "click-test",
    "click-button",
    "click-link",
    "click-dialog-2",
    "click-checkboxes",
    "click-tab-2",
    "enter-text",
    "enter-password",
    "login-user",
    "choose-list",
    "email-inbox-delete",
    "simple-arithmetic",
    "terminal",
)
TRANSCRIPT = """
import hashlib, random
from env_adapters import environment_spec
for _ in range(2):  # The second time the browser has cached the pages' files.
    game, said = environment_spec("miniwob").make(), []
    for task in ("email-inbox/3", "click-collapsible-2/1", "social-media/2", "tic-tac-toe/4"):
        said.append(game.reset(task, 0).messages[1]["content"])
        rng = random.Random(task)
        for _ in range(5):
            turn = game.step(game.random(rng))
            said.append(turn.observation)
            if turn.terminated:
                break
    game.close()
    print(hashlib.sha256("\\n".join(said).encode()).hexdigest())
"""


def play(page: str) -> MiniWob:
    game: MiniWob = MINIWOB.make()  # type: ignore[assignment]
    game.reset(next(task for task in MINIWOB.tasks("test") if task.startswith(f"{page}/")), 0)
    return game


def test_every_page_has_ten_tasks_with_two_for_testing_or_a_reason_to_leave_it_out() -> None:
    train, test = MINIWOB.tasks("train"), MINIWOB.tasks("test")
    assert (len(train), len(test)) == (8 * len(PAGES), 2 * len(PAGES))
    assert not set(train) & set(test) and not set(PAGES) & set(LEFT_OUT)
    for split in ("validation", ""):
        with pytest.raises(UnknownTask):
            MINIWOB.tasks(split)
    with pytest.raises(UnknownTask):
        MINIWOB.make().reset("drag-box/1", 0)


@pytest.mark.parametrize("page", SOLVED)
def test_the_solver_wins(page: str) -> None:
    game = play(page)
    for _ in range(20):
        turn = game.step(game.oracle())
        assert turn.valid
        if turn.terminated:
            break
    game.close()
    assert (turn.success, turn.reward, turn.info["raw_reward"]) == (True, 1.0, 1.0)


def test_a_wrong_click_fails_with_a_reward_of_at_least_0() -> None:
    game = play("click-test-2")
    right = game.oracle()
    wrong = next(action for number in (1, 2) if (action := f"click [{number}]") != right)
    turn = game.step(wrong)
    game.close()
    assert (turn.terminated, turn.success, turn.reward) == (True, False, 0.0)
    assert turn.info["raw_reward"] < 0
    with pytest.raises(ValueError, match="over"):
        game.step(right)


def test_the_same_task_gives_the_same_page_again_and_in_another_process_with_any_hash_seed() -> None:
    said = [
        line
        for seed in ("1", "2")
        for line in subprocess.run(
            [sys.executable, "-c", TRANSCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.split()
    ]
    assert (len(said), len(set(said))) == (4, 1)
    assert len(said[0]) == hashlib.sha256().digest_size * 2


def test_an_answer_without_an_action_costs_a_turn_and_changes_nothing() -> None:
    game = play("enter-text")
    shown = game._tab.view.text
    for answer in ("", "dance", "click [999]", "click one", "type [999] [x]", "goto [http://example.com]", "x" * 9999):
        turn = game.step(answer)
        assert (turn.valid, turn.reward, turn.terminated) == (False, 0.0, False), answer
        assert turn.observation.endswith(shown)
    game.close()


def test_a_random_player_only_takes_possible_actions() -> None:
    rng, valid, steps = random.Random(0), 0, 0
    for page in ("click-button", "enter-text", "login-user"):
        game = play(page)
        for _ in range(6):
            turn = game.step(game.random(rng))
            valid, steps = valid + turn.valid, steps + 1
            if turn.terminated:
                break
        game.close()
    assert valid == steps


def test_a_page_can_only_load_its_own_files() -> None:
    game = play("click-test")
    tried = "fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')"
    page = game._tab._window.page  # type: ignore[union-attr]
    assert game._tab._browser.call(page.evaluate(tried)) == "refused"
    elsewhere = "fetch('https://example.com/').then(r => r.status, () => 'refused')"
    assert game._tab._browser.call(page.evaluate(elsewhere)) in ("refused", 404)
    game.close()


def test_tool_calls_and_text_are_the_same_actions() -> None:
    named = {tool["function"]["name"]: tool["function"]["parameters"] for tool in MINIWOB.tools}
    assert {"click", "type", "select", "hover", "press", "scroll"} == set(named)
    with pytest.raises(ValueError, match="tool"):
        MINIWOB.text_of("goto", {"url": "http://example.com"})
    game = play("enter-text")
    field = next(int(line.split("]")[0].strip("[")) for line in game._tab.view.text.splitlines() if "textbox" in line)
    arguments = {
        name: field if part.get("type") == "integer" else "hello"
        for name, part in named["type"]["properties"].items()
        if name in named["type"]["required"]
    }
    assert game.step(MINIWOB.text_of("type", arguments)).valid
    assert "hello" in game._tab.view.text
    game.close()
