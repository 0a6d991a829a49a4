"""The shared browser of web environments: failures are contained, it restarts, and it leaves no processes behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from env_adapters.browser import browser
from env_adapters.browser.actions import USAGE, Action, text_of
from env_adapters.browser.reading import read_action
from env_adapters.miniwob.spec import KINDS, make_spec
from env_adapters.shop import spec as shop

ROOT = Path(__file__).parents[2]
ALL_KINDS = tuple(USAGE)
OPENED = """
import os, psutil
from env_adapters.miniwob.spec import make_spec
game = make_spec().make()
game.reset("click-test/0", 0)
print(*(process.pid for process in psutil.Process().children(recursive=True)), flush=True)
"""


def gone(pids: list[int]) -> bool:
    """Wait until all of these processes have ended."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "game.close()", "raise SystemExit(0)"])
def test_no_browser_process_outlives_the_process_that_started_it(end: str) -> None:
    done = subprocess.run([sys.executable, "-c", OPENED + end], cwd=ROOT, capture_output=True, text=True, timeout=60)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) >= 3
    assert gone(pids)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_killed_browser_fails_only_its_episodes_and_the_next_reset_starts_another() -> None:
    one, two, other = make_spec().make(), make_spec().make(), shop.make_spec().make()
    one.reset("click-test/0", 0)
    begun = other.reset("order-two/0", 0)
    other.step(other.oracle())
    pid = browser.shared()._pid
    os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        for game in (one, other):
            with pytest.raises(browser.BrowserDied):
                game.step("click [1]")
    two.reset("click-test/1", 0)
    assert browser.shared()._pid != pid
    assert two.step("click [1]").success is True
    one.reset("click-test/0", 0)
    assert one.step("click [1]").success is True
    assert other.reset("order-two/0", 0) == begun
    assert other.step("click [1]").valid
    for game in (one, two, other):
        game.close()


def test_a_page_whose_process_dies_fails_its_episode_and_the_browser_continues() -> None:
    game, spare, shared = make_spec().make(), make_spec().make(), browser.shared()
    game.reset("click-test/0", 0)
    spare.reset("click-test/0", 0)
    spare.close()
    pid = shared._pid
    for process in psutil.Process(pid).children(recursive=True):
        if "--type=renderer" in " ".join(process.cmdline()):
            process.kill()
    with pytest.raises(browser.BrowserDied):
        game.step("click [1]")
    deadline = time.monotonic() + 20
    while any(window.size == (500, 320) for window in shared._spare) and time.monotonic() < deadline:
        time.sleep(0.01)
    for played in (game, spare):
        played.reset("click-test/0", 0)
        assert played.step("click [1]").success is True
        played.close()
    assert shared._pid == pid


def test_a_hanging_browser_is_detected_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "PULSE_S", 0.5)
    game, shared = make_spec().make(), browser.shared()
    game.reset("click-test/0", 0)
    pid = shared._pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(browser.BrowserDied, match="did not answer within"):
        game._tab._call(game._tab._act(Action("click", 1)), 0.5)
    game.close()
    assert gone([pid])
    game.reset("click-test/0", 0)
    assert game.step("click [1]").success is True
    game.close()


def test_the_memory_of_many_pages_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "PAGES", 3)
    game = shop.make_spec().make()
    game.reset("order-two/0", 0)
    for _ in range(5):
        assert game.step("click [1]").valid
        assert game._tab._window.pages < 3
    game.close()


def test_a_hanging_page_is_abandoned_and_the_browser_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    game, other, shared = make_spec().make(), make_spec().make(), browser.shared()
    other.reset("click-test-2/0", 0)
    game.reset("click-test/0", 0)
    pid = shared._pid
    with pytest.raises(browser.BrowserDied, match="did not answer within"):
        game._tab._call(game._tab._evaluate("(() => { while (true) {} })()"), 0.5)
    game.close()
    assert shared._pid == pid
    assert other.step(other.oracle()).success is True
    other.close()


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("click [12]", Action("click", 12)),
        ("Click 12.", Action("click", 12)),
        ("I press the button.\nAction: click [12]\nDone.", Action("click", 12)),
        ("```\nclick [12]\n```", Action("click", 12)),
        ("**Action:** `click [12]`", Action("click", 12)),
        ("hover(3)", Action("hover", 3)),
        ("type [7] [two words]", Action("type", 7, "two words")),
        ("type [7] [a] b] [1]", Action("type", 7, "a] b", enter=True)),
        ("type [7] [x] [press_enter_after=0]", Action("type", 7, "x")),
        ('type 7 "x"', Action("type", 7, "x")),
        ("type [7] []", Action("type", 7, "")),
        ("type [7] [ends with a dot.]", Action("type", 7, "ends with a dot.")),
        ("select [4] [Large (L)]", Action("select", 4, "Large (L)")),
        ("press [enter]", Action("press", text="Enter")),
        ("scroll [DOWN]", Action("scroll", text="down")),
        ("go_back", Action("go_back")),
        ("stop [42 days]", Action("stop", text="42 days")),
        ("stop", Action("stop")),
        ("", None),
        ("click", None),
        ("click [0]", None),
        ("click [1e9]", None),
        ("type [7", None),
        ("type [7]", None),
        ("press [Control+v]", None),
        ("scroll [sideways]", None),
        ("select [4]", None),
        ("goto [http://example.com]", None),
    ],
)
def test_an_action_is_found_in_an_answer(answer: str, action: Action | None) -> None:
    assert read_action(answer, ALL_KINDS) == action
    if action is not None:
        assert read_action(str(action), ALL_KINDS) == action


def test_actions_that_an_environment_lacks_are_not_recognized() -> None:
    assert read_action("stop [x]", KINDS) is None
    with pytest.raises(ValueError, match="no tool"):
        text_of(KINDS, "stop", {})


def test_a_tool_call_is_the_action_it_stands_for() -> None:
    said = text_of(ALL_KINDS, "type", {"text": "a] [1", "id": 3, "press_enter": True})
    assert read_action(said, ALL_KINDS) == Action("type", 3, "a] [1", enter=True)
    said = text_of(ALL_KINDS, "type", {"id": 3, "text": "two\r\nlines\u2028or three"})
    assert read_action(said, ALL_KINDS) == Action("type", 3, "two lines or three")
    assert read_action(text_of(ALL_KINDS, "stop", {}), ALL_KINDS) == Action("stop")
    for name, arguments in (("click", {}), ("click", {"id": 1, "x": 1}), ("type", {"id": 1}), ("dance", {})):
        with pytest.raises(ValueError, match=r"arguments|no tool"):
            text_of(ALL_KINDS, name, arguments)
