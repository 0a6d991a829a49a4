"""Unused environments are closed, the capacity is never exceeded, and nothing blocks in the meantime."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psutil
import pytest

from env_adapters import environment_spec
from tests.support.database import locked
from tests.support.environments.episodes import Serve, opened, says
from tests.support.live import Live, until
from upturn.client import UpturnAPIError
from upturn.wire import EpisodeOpen, EpisodeView, PlayRequest


def passes(live: Live, seconds: float) -> None:
    """Advance the clock of the leases and check them."""
    environments = live.parts.environments
    now = environments._clock() + seconds
    environments._clock = lambda: now
    asyncio.run_coroutine_threadsafe(environments.reap(), live.loop).result(30)


def open_now(live: Live) -> int:
    return live.parts.environments.health.open


def refused(live: Live, **body: Any) -> httpx2.Response:
    return live.http.post("/v1/episodes", json={"environment": "odd-thread", "task": "train/0", **body})


def test_an_abandoned_episode_is_closed_with_the_reason_and_never_trained(serve: Serve) -> None:
    live = serve()
    left, used = opened(live, "odd-thread"), opened(live, "odd-thread")
    says(live, left, "add 1")
    passes(live, 600)
    says(live, used, "add 1")
    passes(live, 600)
    view = live.client.episode(left)
    assert (view.status, view.reason, view.trainable) == ("closed", "lease expired", False)
    assert says(live, used, "add 1") == "2"
    until(lambda: open_now(live) == 1)
    with pytest.raises(UpturnAPIError) as gone:
        live.client.step(left, "add 1")
    assert (gone.value.status, gone.value.code) == (409, "episode_ended")


def test_turns_renew_the_lease_too(serve: Serve) -> None:
    live = serve("win")
    first = live.client.open_episode(EpisodeOpen(environment="odd-thread", task="train/0"))
    for _ in range(3):
        passes(live, 600)
        live.openai(key=first.key).chat.completions.create(
            model="policy", messages=[{"role": "user", "content": first.messages[0].content}]
        )
    assert says(live, first.id, "add 1") == "1"


def test_an_environment_beyond_the_capacity_is_refused_with_retry_after(serve: Serve) -> None:
    live = serve(capacity=3, capacity_of={"odd-thread": 2})
    first, _ = opened(live, "odd-thread"), opened(live, "odd-thread")
    answer = refused(live)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "environments_full")
    assert int(answer.headers["retry-after"]) > 0
    opened(live, "odd/inline:x")
    assert refused(live, environment="odd/inline:x").status_code == 429
    live.client.close_episode(first)
    until(lambda: refused(live).status_code == 201)


def test_a_play_waits_for_capacity(serve: Serve) -> None:
    live = serve("win", capacity=2)
    left = opened(live, "odd-thread")
    play = live.client.start_play(
        PlayRequest(environment="odd-thread", tasks=["train/0", "test/1"], group_size=3, horizon=3)
    )
    done = live.client.wait_for_play(play.id)
    assert (done.state, done.finished, done.succeeded) == ("done", 6, 6)
    assert says(live, left, "add 1") == "1"


def test_many_abandoned_episodes_neither_block_nor_leak(serve: Serve) -> None:
    live = serve(capacity=100)
    me, sizes = psutil.Process(), []
    task = environment_spec("textcraft").tasks("train")[0]
    for _ in range(6):
        with ThreadPoolExecutor(4) as pool:
            list(
                pool.map(lambda _: live.client.open_episode(EpisodeOpen(environment="textcraft", task=task)), range(50))
            )
        passes(live, 1000)
        sizes.append(me.memory_info().rss)
        assert open_now(live) == 0 and live.parts.environments._all == set() and live.parts.environments._of == {}
    assert sizes[-1] - sizes[1] < 8 * 2**20
    played = live.client.open_episode(EpisodeOpen(environment="textcraft", task=task))
    assert live.client.step(played.id, "inventory").reward == 0


def test_a_slow_close_delays_no_other_episode(serve: Serve) -> None:
    live = serve()
    slow, other = opened(live, "odd-thread"), opened(live, "odd-thread")
    says(live, slow, "close 0.6")
    began = time.monotonic()
    live.client.close_episode(slow)
    says(live, other, "add 1")
    assert time.monotonic() - began < 0.5
    until(lambda: open_now(live) == 1)


def test_an_unrecorded_step_ends_its_episode_once_the_database_is_back(serve: Serve) -> None:
    live = serve()
    live.parts.database.writer.dispose()
    episode = opened(live, "odd-thread")
    with locked(live.parts.settings.data_dir):
        stepping = ThreadPoolExecutor(1).submit(
            live.http.post, f"/v1/episodes/{episode}/steps", json={"action": "add 1"}, timeout=60
        )
        time.sleep(0.3)
    assert stepping.result(60).status_code == 200, "a short lock is waited for"
    live.parts.environments._writer = Broken()  # type: ignore[assignment]
    assert live.http.post(f"/v1/episodes/{episode}/steps", json={"action": "add 1"}).status_code == 503
    view = live.client.episode(episode)
    assert (view.status, view.error_class, len(view.steps)) == ("error", "Unavailable", 1)


class Broken:
    """A writer whose database is unavailable."""

    async def write(self, work: object) -> None:
        from server.errors import Unavailable

        raise Unavailable("gone", code="database_unavailable")


def test_episodes_of_the_previous_process_are_closed_and_never_trained(serve: Serve, tmp_path: Any) -> None:
    first = serve()
    left = opened(first, "odd-thread")
    says(first, left, "add 1")
    first.parts.store.exclusive.release()  # As if it had been killed.
    second = serve()
    view: EpisodeView = second.client.episode(left)
    assert (view.status, view.reason, view.trainable) == ("closed", "the server restarted", False)


def test_a_reset_whose_caller_disconnects_leaves_no_environment_open(serve: Serve) -> None:
    live = serve()
    with httpx2.Client(base_url=live.url, timeout=0.05) as impatient, pytest.raises(httpx2.TimeoutException):
        impatient.post("/v1/episodes", json={"environment": "odd", "task": "train/0"})
    until(lambda: live.parts.environments.health.of("odd").started == 1 and open_now(live) == 0)
    assert threading.active_count() < 100


def test_tasks_are_paged_and_names_may_contain_colons_and_slashes(serve: Serve) -> None:
    live = serve()
    page = live.http.get("/v1/environments/odd%2Finline%3Ax/tasks", params={"limit": 2, "offset": 10}).json()
    assert (page["total"], page["tasks"]) == (1500, ["train/10", "train/11"])
    assert len(live.client.tasks("odd/inline:x", "train").tasks) == 1500
    assert live.http.get("/v1/environments/odd/tasks?split=none").json()["error"]["code"] == "split_not_found"
    assert live.http.get("/v1/environments/none:x/tasks").status_code == 404
    listed = live.client.environments()
    assert {"odd", "odd/inline:x", "textcraft"} <= {view.name for view in listed.data} and "gymnasium" in listed.kinds
    odd = next(view for view in listed.data if view.name == "odd")
    assert (odd.splits, odd.isolation, odd.missing) == ({"train": 1500, "test": 3}, "host", None)


def test_an_action_is_text_or_a_tool_call_and_an_invalid_call_is_a_step(serve: Serve) -> None:
    live = serve()
    episode = opened(live, "odd-thread")
    right = live.client.call(episode, "add", {"number": 3})
    assert (right.observation, right.valid) == ("3", True)
    wrong = live.client.call(episode, "add", {"numbers": 3})
    assert (wrong.observation, wrong.reward, wrong.turns_left) == ("there is only add, with a number", 0.0, 98)
    assert (wrong.valid, wrong.success) == (False, None)
    both = {"action": "add 1", "tool_call": {"name": "add", "arguments": {"number": 1}}}
    for body in ({}, both):
        assert live.http.post(f"/v1/episodes/{episode}/steps", json=body).status_code == 400
    steps = live.client.episode(episode).steps
    assert [(step.action, step.info) for step in steps] == [("add 3", {}), ('add({"numbers": 3})', {"valid": False})]
