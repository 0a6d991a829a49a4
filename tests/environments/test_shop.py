"""The shop with its forum: every template is solved in 8 to 15 actions, and only the exact outcome counts."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from env_adapters import environment_spec
from env_adapters.browser import browser
from env_adapters.browser.web import Request
from env_adapters.protocol import EnvironmentFailure, Transition, UnknownTask
from env_adapters.shop import database
from env_adapters.shop.site import Site
from env_adapters.shop.spec import KINDS, Shop, all_tasks, make_spec
from env_adapters.shop.tasks import TEMPLATES, Task, is_done

SHOP = make_spec()
ROOT = Path(__file__).parents[2]
MADE_ELSEWHERE = """
from tests.environments.test_shop import digest, transcript
print(digest(), transcript())
"""


def begun(task: str) -> Shop:
    game = SHOP.make()
    game.reset(task, 0)
    return game


def until_stop(game: Shop) -> list[Transition]:
    """Let the solver play until its `stop`."""
    seen = []
    while not (action := game.oracle()).startswith("stop"):
        assert len(seen) < 25
        seen.append(game.step(action))
    return seen


def made(task: str) -> tuple[sqlite3.Connection, Task]:
    """Make a task's database as an episode does."""
    rng = random.Random(f"shop/{task}")
    db = database.made(rng)
    return db, TEMPLATES[task.partition("/")[0]](db, rng)


def digest() -> str:
    """Return a digest of every task's goal, wanted outcome and initial state."""
    seen = hashlib.sha256()
    for task in all_tasks():
        db, wanted = made(task)
        seen.update(repr((task, wanted, sorted(map(repr, database.state(db).items())))).encode())
        db.close()
    return seen.hexdigest()


def transcript() -> str:
    """Return a digest of the pages that the solver visits in one task."""
    game = begun("find-reviewer/0")
    seen = [game._tab.view.text, *(turn.observation for turn in until_stop(game))]
    game.close()
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()


def pressed(game: Shop, name: str, text: str = "") -> Transition:
    """Click the element with this name, or type into it."""
    found = next(target.id for target in game._tab.view.targets if target.name == name)
    return game.step(f"type [{found}] [{text}]" if text else f"click [{found}]")


def ordered(game: Shop, *, quantity: str, shipping: str) -> None:
    """Order the product on the page, to the address Work."""
    pressed(game, "Quantity", quantity)
    pressed(game, "Add to cart")
    pressed(game, "Go to checkout")
    for name, option in (("Send to", "Work"), ("Shipping", shipping)):
        found = next(target.id for target in game._tab.view.targets if target.name == name)
        assert game.step(f"select [{found}] [{option}]").valid
    assert "Status: processing" in pressed(game, "Place order").observation


def test_each_of_the_ten_templates_has_fifty_tasks_with_ten_for_testing() -> None:
    train, test = SHOP.tasks("train"), SHOP.tasks("test")
    assert (len(train), len(test), len(TEMPLATES)) == (400, 100, 10)
    assert not set(train) & set(test)
    assert {task.partition("/")[0] for task in test} == set(TEMPLATES)
    with pytest.raises(UnknownTask, match="validation"):
        SHOP.tasks("validation")
    with pytest.raises(UnknownTask, match="order-two/7"):
        SHOP.make().reset("order-two/50", 0)
    assert environment_spec("shop").name == "shop"


def test_every_task_is_the_same_in_another_process_and_never_done_from_the_start() -> None:
    other = subprocess.run(
        [sys.executable, "-c", MADE_ELSEWHERE],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.split() == [digest(), transcript()]
    for task in SHOP.tasks("test"):
        db, wanted = made(task)
        assert not is_done(db, database.state(db), wanted, wanted.answer or ""), task
        db.close()


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_the_solver_solves_every_template_in_8_to_15_actions(template: str) -> None:
    game = begun(next(task for task in SHOP.tasks("test") if task.startswith(f"{template}/")))
    seen = until_stop(game)
    assert all(turn.valid and not turn.terminated for turn in seen)
    last = game.step(game.oracle())
    assert (last.terminated, last.success, last.reward) == (True, True, 1.0)
    assert 8 <= len(seen) + 1 <= 15
    with pytest.raises(ValueError, match="over"):
        game.step("stop")
    game.close()
    game.close()


@pytest.mark.parametrize("more", ["order", "post", "vote"])
def test_doing_more_than_the_task_says_fails(more: str) -> None:
    game = begun("order-two/0" if more == "order" else "report-post/0")
    until_stop(game)
    if more == "order":
        product = next(target.name for target in game._tab.view.targets if ", " in target.name)
        pressed(game, product)
        ordered(game, quantity="1", shipping="Pickup point")
    elif more == "post":
        pressed(game, "Your reply", "Me too.")
        assert "wrote: Me too." in pressed(game, "Post reply").observation
    else:
        assert pressed(game, "Vote up").valid
    last = game.step("stop")
    game.close()
    assert (last.terminated, last.success, last.reward) == (True, False, 0.0)


@pytest.mark.parametrize(
    ("quantity", "shipping", "success"),
    [("1", "Express (next day)", True), ("2", "Express (next day)", False), ("1", "Pickup point", False)],
)
def test_an_order_must_match_the_requested_order(quantity: str, shipping: str, success: bool) -> None:
    game = begun(
        next(
            task
            for task in all_tasks()
            if task.startswith("swap-order/")
            and {"label": "Work", "shipping": "express"}.items() <= made(task)[1].facts.items()
        )
    )
    while "Search:" not in game._tab.view.text:
        game.step(game.oracle())
    game.step(game.oracle())
    ordered(game, quantity=quantity, shipping=shipping)
    assert game.step("stop").success is success
    game.close()


def test_stopping_at_once_or_answering_wrongly_fails() -> None:
    game = begun("order-two/1")
    assert game.step("stop [done]").success is False
    game.reset("find-reviewer/1", 0)
    until_stop(game)
    right = game.oracle()
    assert game.step("stop [Atlantis]").success is False
    game.reset("find-reviewer/1", 0)
    until_stop(game)
    assert game.step(f"I found it.\nAction: {right.upper()}.").success is True
    game.close()


def test_an_answer_without_an_action_costs_a_turn_and_changes_nothing() -> None:
    game = begun("order-two/1")
    shown = game._tab.view.text
    for answer in (
        "",
        "buy it",
        "click [999]",
        "select [1] [x]",
        "type [1] [x]",
        "press [Enter]",
        "go_back",
        "scroll [down]",
        "goto [http://example.com]",
    ):
        turn = game.step(answer)
        assert (turn.valid, turn.reward, turn.terminated) == (False, 0.0, False), answer
        assert turn.observation.endswith(shown)
    game.close()


def test_go_back_shows_the_previous_page_and_episodes_are_isolated() -> None:
    one, two = begun("order-two/2"), begun("order-two/2")
    home = one._tab.view.text
    one.step("click [3]")
    assert one.step("go_back").observation == home
    while "Cart (0)" in one._tab.view.text:
        one.step(one.oracle())
    assert two._tab.view.text == home
    assert "Your cart is empty." in two.step("click [2]").observation
    one.reset("order-two/3", 0)
    assert "Cart (0)" in one._tab.view.text
    assert not one.step("go_back").valid
    one.close()
    two.close()


def test_the_solver_continues_after_a_detour() -> None:
    game = begun("order-cheapest/0")
    pressed(game, "Mugs")
    pressed(game, next(target.name for target in game._tab.view.targets if ", " in target.name))
    pressed(game, "Add to cart")
    pressed(game, "Go to checkout")
    assert "Please fill in every field." in pressed(game, "Place order").observation
    pressed(game, "Forum")
    assert "Please fill in every field." in game.step("go_back").observation
    until_stop(game)
    assert game.step("stop").success is True
    game.close()


def test_a_failing_page_is_a_failure_without_a_reward() -> None:
    game = begun("order-two/2")
    assert game._site is not None
    game._site.db.execute("DROP TABLE cart")
    with pytest.raises(EnvironmentFailure, match="cart"):
        game.step("click [3]")
    game.close()


def test_markup_and_sql_typed_in_the_browser_stay_data() -> None:
    game = begun("report-post/1")
    while "Your reply" not in game._tab.view.text:
        game.step(game.oracle())
    assert game._site is not None
    for text in ("<script>document.body.remove()</script>", "'; DROP TABLE post; --"):
        pressed(game, "Your reply", text)
        assert text in pressed(game, "Post reply").observation
        assert ("post", text) in {(change[0], change[-1]) for change in database.state(game._site.db)}
    turn = game.step(
        f"type [{next(one.id for one in game._tab.view.targets if one.name == 'Search products')}] "
        "['; DROP TABLE product; -- <b>] [1]"
    )
    assert "Search: '; DROP TABLE product; -- <b>" in turn.observation and "0 products." in turn.observation
    game.close()


def test_a_page_reaches_only_its_own_host_whose_name_is_secret() -> None:
    one, two = begun("order-two/1"), begun("order-two/1")
    assert one._host != two._host
    assert one._host.partition(".")[0] not in one._tab.view.text
    shared, page = browser.shared(), one._tab._window.page
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        port = elsewhere.getsockname()[1]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", "shop.test", "example.com", two._host):
            got = f"fetch('http://{host}/').then((answer) => answer.status, () => 'refused')"
            assert shared.call(page.evaluate(got)) == "refused"
        sent = f"fetch('http://127.0.0.1:{port}/', {{mode: 'no-cors'}}).then(() => 0, () => 0)"
        assert shared.call(page.evaluate(sent)) == 0
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert shared.call(page.evaluate("fetch('/cart').then((answer) => answer.status)")) == 200
    one.close()
    assert one._host not in shared.web._hosts and two._host in shared.web._hosts
    two.close()


def test_tool_calls_and_text_are_the_same_actions() -> None:
    assert [tool["function"]["name"] for tool in SHOP.tools] == list(KINDS)
    game = begun("order-two/4")
    found = next(one.id for one in game._tab.view.targets if one.name == "Search products")
    turn = game.step(SHOP.text_of("type", {"id": found, "text": "lamp", "press_enter": True}))
    assert "Search: lamp" in turn.observation
    assert game.step(SHOP.text_of("go_back", {})).valid
    with pytest.raises(ValueError, match="no tool"):
        SHOP.text_of("press", {"key": "Enter"})
    assert game.step(SHOP.text_of("stop", {"answer": "done"})).success is False
    game.close()


def test_typed_text_is_never_markup() -> None:
    site = Site(database.made(random.Random(0)))
    site(Request("POST", "/forum/t/1", {}, {"text": "<script>alert(1)</script> & more"}))
    shown = site(Request("GET", "/forum/t/1", {}, {})).body.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in shown
    assert "<script" not in shown
    site.db.close()


@pytest.mark.parametrize("path", ["/p/0", "/p/1;x", "/c/nothing", "/forum/t/99999", "/orders/1", "/forum/u/x", "/x"])
def test_a_missing_path_has_an_error_page(path: str) -> None:
    site = Site(database.made(random.Random(0)))
    assert site(Request("GET", path, {"page": "x", "q": "'; DROP TABLE cart"}, {})).status == 404
    assert site(Request("POST", path, {}, {})).status == 404
    site.db.close()


def test_a_random_player_takes_possible_actions() -> None:
    rng = random.Random(1)
    game = begun("order-again/3")
    turns = []
    for _ in range(12):
        turns.append(game.step(game.random(rng)))
        if turns[-1].terminated:
            game.reset("order-again/3", 0)
    game.close()
    assert sum(turn.valid for turn in turns) >= 10
