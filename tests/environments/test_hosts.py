"""Environments that hang, fail or die end their own episode as an error in bounded time, and no other episode."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from env_adapters.hosting.host import Host
from env_adapters.hosting.workers import EnvironmentTimeout, Workers
from tests.support.environments.episodes import MODULES, Serve, opened, says
from tests.support.live import Live, script, until
from tests.support.process import process
from upturn.client import Client
from upturn.wire import EpisodeOpen

ROOT = Path(__file__).parents[2]


def fails(live: Live, episode: str, action: str) -> str:
    """Act, expect the episode to fail, and return its error class."""
    answer = live.http.post(f"/v1/episodes/{episode}/steps", json={"action": action})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "environment_failed"), answer.text
    view = live.client.episode(episode)
    assert view.status == "error" and view.error_class is not None
    assert action not in [step.action for step in view.steps]
    return view.error_class


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("name", ["odd", "odd-thread", "odd/inline:x"])
def test_an_episode_is_the_same_for_every_isolation(serve: Serve, name: str) -> None:
    live = serve()
    first = live.client.open_episode(EpisodeOpen(environment=name, task="train/7", seed=3))
    assert first.messages[0].content == "train/7 0.08885976812946916" and first.tools[0]["function"]["name"] == "add"
    assert [says(live, first.id, text) for text in ("add 2", "add 3", "fly")] == ["2", "5", "cannot 'fly'"]
    pid, thread = says(live, first.id, "where").split(" ", 1)
    assert (int(pid) != os.getpid()) == (name == "odd") and (thread == "environment") == (name != "odd/inline:x")
    assert says(live, first.id, "odd") == "a\ufffdb?c"
    assert live.client.step(first.id, "win").terminated
    view = live.client.episode(first.id)
    assert (view.status, view.reward, view.steps[2].info) == ("terminated", 1.0, {"valid": False})
    assert view.steps[4].info == {"set": "{1}", "nan": "NaN"}


@pytest.mark.parametrize(
    ("action", "error"),
    [
        ("raise", "LookupError"),
        ("exit", "EnvironmentFailure"),
        ("nan", "EnvironmentFailure"),
        ("loop", "EnvironmentTimeout"),
        ("sleep 1.5", "EnvironmentTimeout"),
    ],
)
@pytest.mark.parametrize("name", ["odd", "odd-thread"])
def test_a_failing_or_hanging_environment_ends_its_episode_with_the_error_class_and_affects_no_other(
    serve: Serve, name: str, action: str, error: str
) -> None:
    live = serve()
    bad, good = opened(live, name), opened(live, name)
    assert says(live, good, "add 1") == "1"
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(fails, live, bad, action)
        assert says(live, good, "add 1") == "2"
        assert failing.result(20) == error
    assert says(live, good, "add 1") == "3"
    health = next(view for view in live.client.environments().data if view.name == name)
    assert (health.started, health.errors) == (2, {error: 1})


def test_an_environment_that_cannot_start_is_reported_and_counted(serve: Serve) -> None:
    live = serve()
    answer = live.http.post("/v1/episodes", json={"environment": "odd", "task": "broken"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "environment_failed")
    unknown = live.http.post("/v1/episodes", json={"environment": "odd", "task": "none"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "task_not_found")
    odd = next(view for view in live.client.environments().data if view.name == "odd")
    assert (odd.open, odd.errors) == (0, {"EnvironmentFailure": 1})


def test_a_dead_host_fails_its_episodes_and_is_replaced(serve: Serve) -> None:
    live = serve()
    first, second = opened(live), opened(live)
    pid = says(live, first, "where").split()[0]
    assert says(live, second, "where").split()[0] == pid
    assert fails(live, first, "die") == "EnvironmentHostDied"
    assert fails(live, second, "add 1") == "EnvironmentHostDied"
    assert says(live, opened(live), "where").split()[0] != pid


def test_a_host_with_too_many_stuck_threads_is_replaced_and_ends_when_it_is_empty(serve: Serve) -> None:
    live = serve()
    good, *bad = (opened(live) for _ in range(5))
    pid = int(says(live, good, "where").split()[0])
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda episode: fails(live, episode, "stubborn"), bad)) == {"EnvironmentTimeout"}
    assert says(live, good, "add 1") == "1", "it continues with the hosts it has"
    assert int(says(live, opened(live), "where").split()[0]) != pid
    live.client.close_episode(good)
    until(lambda: not alive(pid))


def test_no_host_outlives_its_server(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "win")
    with (
        process(
            tmp_path / "data",
            model,
            "--engine.kind",
            "scripted",
            "--environments.modules",
            "tests.support.environments.odd",
        ) as (server, url),
        Client(url) as client,
    ):
        episode = client.open_episode(EpisodeOpen(environment="odd", task="train/0")).id
        pid = int(client.step(episode, "where").observation.split()[0])
        assert alive(pid)
        server.send_signal(signal.SIGKILL)
        server.wait()
        until(lambda: not alive(pid))


@contextmanager
def host(token_file: Path) -> Iterator[str]:
    """Run `python -m env_adapters serve` as on another machine; yields its address."""
    command = [
        sys.executable,
        "-m",
        "env_adapters",
        "serve",
        "--port",
        "0",
        "--token-file",
        str(token_file),
        "--module",
        MODULES[0],
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield running.stdout.readline().split()[1]
        finally:
            running.terminate()


def test_a_host_on_another_machine_requires_the_token(serve: Serve, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("secret\n")
    wrong.write_text("guess")
    with host(right) as address:
        live = serve(workers=0, hosts=[address], token_file=right)
        assert says(live, opened(live), "add 4") == "4"
        refused = serve(data="other", workers=0, hosts=[address], token_file=wrong)
        answer = refused.http.post("/v1/episodes", json={"environment": "odd", "task": "train/0"})
        assert "EnvironmentHostDied" in answer.json()["error"]["message"]
        live.http.post("/v1/episodes", json={"environment": "odd", "task": "train/0"}).raise_for_status()
        last = opened(live)
    assert fails(live, last, "add 1") == "EnvironmentHostDied"
    answer = live.http.post("/v1/episodes", json={"environment": "odd", "task": "train/0"})
    assert answer.status_code == 503 and "no environment host" in answer.json()["error"]["message"]


def test_new_instances_go_to_the_host_with_the_fewest_instances(serve: Serve) -> None:
    live = serve(workers=2)
    episodes = [opened(live) for _ in range(4)]
    pids = [says(live, episode, "where").split()[0] for episode in episodes]
    assert sorted(pids.count(pid) for pid in set(pids)) == [2, 2]


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1\r\n", b"[]\n", b'{"token": "x"}\n', b"x" * 2**20])
def test_a_host_disconnects_a_caller_with_another_protocol(line: bytes) -> None:
    async def answered() -> bytes:
        host = Host(token="secret")
        reader, writer = await asyncio.open_connection("127.0.0.1", await host.start("127.0.0.1", 0))
        writer.write(line)
        writer.write_eof()
        found = await reader.read()
        writer.close()
        await host.close()
        return found

    assert asyncio.run(answered()) == b""


def test_a_host_that_is_reachable_from_other_machines_requires_a_token() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "env_adapters", "serve", "--host", "0.0.0.0"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "--token-file" in done.stderr) == (2, True)


def test_a_thread_is_interrupted_or_counted_after_a_timeout_and_never_reused() -> None:
    def stubborn() -> None:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            try:
                time.sleep(0.01)
            except BaseException:
                continue

    async def outcome() -> list[int]:
        workers = Workers(grace_s=0.2)
        for do in (stubborn, lambda: [None for _ in iter(int, 1)]):
            with pytest.raises(EnvironmentTimeout):
                await workers.call(do, 0.1)
        counts = [workers.stuck, await workers.call(lambda: 5, 1.0)]
        await asyncio.sleep(1.2)
        workers.close()
        return [*counts, workers.stuck]

    assert asyncio.run(outcome()) == [1, 5, 0]


def test_closing_an_episode_during_a_step_records_no_late_step(serve: Serve) -> None:
    live = serve()
    episode = opened(live)
    with ThreadPoolExecutor(1) as pool, httpx2.Client(base_url=live.url, timeout=30) as other:
        stepping = pool.submit(lambda: other.post(f"/v1/episodes/{episode}/steps", json={"action": "sleep 0.4"}))
        time.sleep(0.15)
        live.client.close_episode(episode)
        assert stepping.result(20).status_code == 409
    assert live.client.episode(episode).steps == []
