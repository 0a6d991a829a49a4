"""Drawings show the state that the environment had, from the recorded texts alone, and nothing that they do not say."""

from __future__ import annotations

import random
from typing import Any

import pytest

from env_adapters import environment_spec
from env_adapters.babyai.level import describe_thing, sight_of
from env_adapters.babyai.text import SIDE, VIEW
from env_adapters.protocol import Environment
from server.dashboard.drawings.draw import states_of
from server.dashboard.drawings.parts import Choices, Facts, Grid, Inventory, Meter, Page, Passages, Screen
from upturn.wire import EpisodeView, StepView, TurnView

pytestmark = pytest.mark.filterwarnings("ignore:pkg_resources:UserWarning", "ignore::DeprecationWarning:pygame.*")


def view(environment: str | None, first: str, steps: list[dict[str, Any]], task: str = "") -> EpisodeView:
    """Return an episode with these steps, as far as drawings read it."""
    done = {"reward": 0.0, "terminated": False, "truncated": False}
    shown = [StepView.model_validate({"index": n, **done, **step}) for n, step in enumerate(steps)]
    messages = [{"role": "system", "content": "Rules."}, {"role": "user", "content": first}]
    turn = TurnView.model_construct(messages=messages)
    return EpisodeView.model_construct(id="ep_1", environment=environment, task=task, turns=[turn], steps=shown)


def acted(game: Environment, answer: str) -> dict[str, Any]:
    """Act, and return the step as it is recorded."""
    turn = game.step(answer)
    info = turn.info if turn.valid else {**turn.info, "valid": False}
    return {"action": answer, "observation": turn.observation, "info": info}


def test_babyais_grid_has_every_thing_and_wall_that_the_agent_was_told_of_where_it_is() -> None:
    checked = 0
    for task in environment_spec("babyai").tasks("train")[::80]:
        game: Any = environment_spec("babyai").make()
        reset = game.reset(task, 0)
        rng, steps, sights = random.Random(task), [], [(sight_of(game._level), None)]
        for _ in range(8):
            steps.append(acted(game, "fly away" if rng.random() < 0.2 else game.random(rng)))
            if game._level is None:
                break
            sights.append((sight_of(game._level), describe_thing(game._level.carrying)))
        states = states_of(view("babyai", reset.messages[-1]["content"], steps, task))
        assert len(states) == len(steps) + 1
        for state, (sight, carried) in zip(states, sights, strict=False):
            grid, choices = state.parts
            assert isinstance(grid, Grid) and isinstance(choices, Choices)
            assert {(thing.name, thing.column, thing.row) for thing in grid.things if thing.shape != "wall"} == {
                (thing.name, SIDE + thing.right, VIEW - 1 - thing.ahead) for thing in sight.things
            }
            assert len([thing for thing in grid.things if thing.shape == "wall"]) == len(sight.walls)
            assert (grid.carried and grid.carried.name) == carried
            assert (grid.doorway and grid.doorway.name) == sight.doorway
            assert choices.names == tuple(sight.moves)
            checked += 1
        if len(sights) == len(steps):
            assert states[-1].parts == (), "the last observation shows no grid"
    assert checked > 50


def test_textcrafts_inventory_is_replayed_exactly_from_the_commands_and_their_results() -> None:
    for task in environment_spec("textcraft").tasks("train")[::40]:
        game: Any = environment_spec("textcraft").make()
        reset = game.reset(task, 0)
        rng, steps, truth = random.Random(task), [], [{}]
        while not game._over and len(steps) < 60:
            wrong = rng.choice(["nonsense", "get 1 bedrock", "inventory", game.random(rng)])
            steps.append(acted(game, f"I think.\nAction: {game.oracle()}" if rng.random() < 0.7 else wrong))
            truth.append(dict(game._inventory))
        states = states_of(view("textcraft", reset.messages[-1]["content"], steps, task))
        assert len(states) == len(truth)
        for state, held in zip(states, truth, strict=True):
            (inventory,) = state.parts
            assert isinstance(inventory, Inventory) and inventory.goal == game._goal
            assert inventory.items is not None
            assert {item.name: item.count for item in inventory.items if item.count} == held


def test_textcrafts_inventory_is_unknown_where_the_record_does_not_tell_and_known_again_from_a_list() -> None:
    steps = [
        {"action": "get 1 coal", "observation": "Got 1 coal", "info": {}},
        {"action": "craft 4 torch using 1 coal, 1 stick", "observation": "Crafted 4 torch", "info": {}},
        {"action": "get 1 coal", "observation": "Got 1 coal", "info": {}},
        {"action": "inventory", "observation": "Inventory: [torch] (4) [coal] (1)", "info": {}},
    ]
    shown = [state.parts[0] for state in states_of(view("textcraft", "Goal: craft torch.", steps))]
    assert all(isinstance(part, Inventory) for part in shown)
    held = [part.items and {item.name: item.count for item in part.items} for part in shown]  # type: ignore[union-attr]
    assert held == [(), {"coal": 1}, None, None, {"torch": 4, "coal": 1}]


def test_a_search_shows_its_passages_and_an_answer_shows_none() -> None:
    found = "<information>\nDoc 1 (Title: Peru (2020)) The capital is Lima.\nDoc 2 (Title: Chile) Long.\n</information>"
    nothing = "<information>\nNo passage has these words.\n</information>\nSearch for names."
    steps = [{"action": "", "observation": text, "info": {}} for text in (found, nothing, "Correct.")]
    states = states_of(view("search", "Question: ?", steps))
    (passages,), (none,), last = states[1].parts, states[2].parts, states[3].parts
    assert isinstance(passages, Passages) and isinstance(none, Passages)
    assert [(one.number, one.title, one.text) for one in passages.found] == [
        (1, "Peru (2020)", "The capital is Lima."),
        (2, "Chile", "Long."),
    ]
    assert (none.found, none.note, last) == ((), "No passage has these words.", ())


def test_a_web_page_marks_the_elements_that_can_be_acted_on() -> None:
    (page,) = states_of(view("miniwob", "Task: click.\n\nheading: Shop\n[1] button 'Buy'", []))[0].parts
    assert isinstance(page, Page)
    assert [(line.number, line.role, line.text) for line in page.lines] == [
        (None, "", "heading: Shop"),
        (1, "button", "'Buy'"),
    ]


def test_scores_boards_and_recorded_info_are_shown() -> None:
    step = {"action": "go", "observation": "x", "info": {"score": 1, "moves": 1, "commands": ["go east"]}}
    told = {**step, "observation": "Ok.\nYour score is now 2 of 4.", "info": {"score": 2, "commands": []}}
    assert [state.parts for state in states_of(view("textworld", "", [step, told]))] == [
        (),
        (Facts((("score", "1"),)), Choices("Possible commands", ("go east",))),
        (Meter("Score", 2.0, 0.0, 4.0),),
    ]
    science = {"action": "", "observation": "", "info": {"raw_score": -100, "moves": 3}}
    assert states_of(view("sciworld", "", [science]))[1].parts == (
        Meter("Score", -100.0, -100.0, 100.0),
        Facts((("moves", "3"),)),
    )
    board = {"action": "", "observation": "SF\nHG", "info": {"return": 0.0, "valid": False}}
    assert states_of(view("gymnasium:FrozenLake-v1", "0", [board]))[1].parts == (
        Screen("SF\nHG"),
        Facts((("return", "0.0"),)),
    )


def test_records_of_any_form_are_drawn_or_left_blank() -> None:
    odd: list[dict[str, Any]] = [
        {"action": "\x00", "observation": "You see: .\n" * 3, "info": {"score": "many", "commands": "none"}},
        {"action": "", "observation": "Crafted 99 <b>", "info": {"raw_score": None, "moves": [1]}},
        {"action": "", "observation": "Inventory: [x] (9" + "9" * 5000 + ")", "info": {"score": True}},
    ]
    names = ("babyai", "textcraft", "search", "shop", "textworld", "sciworld", "gymnasium:A", "someone's own")
    for name in names:
        assert len(states_of(view(name, "", odd))) == 4
    assert states_of(view(None, "", [])) == []
    assert len(states_of(view("babyai", "", odd).model_copy(update={"turns": []}))) == 4
