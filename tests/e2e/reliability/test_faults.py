"""Faults: an engine dies, a server is killed, a signal comes. Nothing recorded is lost, nothing broken is trained."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import openai
import pytest

from env_adapters import environment_spec
from tests.support.live import script, serving, settings_for
from tests.support.process import process
from tests.support.tiny_model import make_tiny_model
from upturn.client import Client
from upturn.wire import BatchRequest, EpisodeOpen, LivePlan, PlayRequest, RewardRequest, RunClaim, RunConfig, RunRequest

ROOT = Path(__file__).parents[3]
ASK = [{"role": "user", "content": "Hi"}]


def processes_that_name(directory: Path) -> list[str]:
    """Command lines of living processes that mention a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(directory) in line:
                found.append(line)
    return found


def test_an_engine_that_dies_gives_503_and_its_episode_is_failed_and_never_trained(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "word " * 50, delay_s=0.02)
    with serving(settings_for(tmp_path / "data", model=str(model))) as live:
        good, bad = (live.client.open_episode(EpisodeOpen(group="g")) for _ in range(2))
        live.openai(key=good.key).chat.completions.create(model="policy", messages=ASK, max_tokens=3)
        dying = threading.Timer(0.3, lambda: setattr(live.parts.engine, "_running", False))
        dying.start()
        with pytest.raises(openai.InternalServerError) as refused:
            live.openai(key=bad.key).chat.completions.create(model="policy", messages=ASK)
        assert refused.value.status_code == 503
        assert int(refused.value.response.headers["retry-after"]) > 0
        assert refused.value.code == "engine_unavailable"
        view = live.client.episode(bad.id)
        assert (view.status, view.error_class, view.turns) == ("error", "EngineError", [])
        live.client.reward(good.id, RewardRequest(value=1.0))
        live.client.close_episode(good.id)
        assert live.http.post(f"/v1/episodes/{bad.id}/rewards", json={"value": 1.0}).status_code == 409
        live.client.create_run(RunRequest(config=RunConfig(steps=1, live=LivePlan(min_episodes=1))))
        run = live.client.claim_run(RunClaim(learner="t"))
        assert run is not None
        batch = live.client.lease_batch(BatchRequest(run_id=run.id, learner="t", step=0, horizon=1))
        assert batch.samples == []


def test_kill_9_loses_no_turn_and_fails_the_environment_episodes_that_were_open(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "Hello there.")
    task = environment_spec("textcraft").tasks("train")[0]
    with process(tmp_path / "data", model, "--engine.kind", "scripted") as (server, url), Client(url) as client:
        live = client.open_episode(EpisodeOpen())
        played = client.open_episode(EpisodeOpen(environment="textcraft", task=task))
        with openai.OpenAI(base_url=f"{url}/v1", api_key=live.key) as api:
            answered = api.chat.completions.create(model="policy", messages=ASK).choices[0].message.content
        server.send_signal(signal.SIGKILL)
        server.wait()
    with process(tmp_path / "data", model, "--engine.kind", "scripted") as (_, url), Client(url) as client:
        assert client.episode(live.id).turns[0].answer["content"] == answered
        assert client.episode(played.id).reason == "the server restarted"
        talk = [*ASK, {"role": "assistant", "content": answered}, {"role": "user", "content": "More"}]
        with openai.OpenAI(base_url=f"{url}/v1", api_key=live.key) as api:
            api.chat.completions.create(model="policy", messages=talk)
        one, two = client.episode(live.id).turns
        assert two.token_ids[: len(one.token_ids)] == one.token_ids


def test_ctrl_c_during_a_play_ends_cleanly_with_a_database_that_opens(tmp_path: Path) -> None:
    model = script(tmp_path / "script", "inventory", delay_s=0.05)
    tasks = environment_spec("textcraft").tasks("train")[:3]
    with process(tmp_path / "data", model, "--engine.kind", "scripted") as (server, url), Client(url) as client:
        play = client.start_play(PlayRequest(environment="textcraft", tasks=tasks, group_size=2, horizon=50))
        time.sleep(1)
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
    with sqlite3.connect(tmp_path / "data" / "upturn.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        assert connection.execute("select state from play where id = ?", [play.id]).fetchone() == ("cancelled",)
        statuses = {row[0] for row in connection.execute("select status from episode")}
    connection.close()
    assert statuses == {"closed"}


@pytest.mark.vllm
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_vllm_process_outlives_its_server(tmp_path: Path, stop: signal.Signals) -> None:
    model = make_tiny_model(tmp_path / "model")
    flags = (
        "--engine.kind",
        "vllm",
        "--engine.dtype",
        "float32",
        "--engine.context-tokens",
        "512",
        "--engine.kv-cache-gib",
        "0.3",
    )
    with process(tmp_path / "data", model, *flags) as (server, url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="x") as api:
            assert (
                api.chat.completions.create(model="policy", messages=ASK, max_tokens=2).system_fingerprint == "policy@0"
            )
        assert processes_that_name(tmp_path)
        server.send_signal(stop)
        server.wait(timeout=60)
        deadline = time.monotonic() + 30
        while (left := processes_that_name(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.2)
    assert left == []
