"""Swaps cut off by a killed server, a killed learner or a full disk: the earlier version keeps serving."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from openai import OpenAI

from server.engines.scripted import scripted_logprobs
from server.engines.settings import EngineSettings
from tests.support.live import script, serving, settings_for
from tests.support.process import ROOT, process
from tests.support.runs.learned import record_group, serve_tiny, wait_for
from tests.support.runs.scripted import FEW_LIVE, LEARNER, PROBE
from tests.support.tiny_model import make_tiny_model
from upturn.client import Client, UpturnAPIError
from upturn.manifest import MANIFEST, verify_manifest, write_manifest
from upturn.wire import OptimizerConfig, PolicyPublish, Probe, RunClaim, RunConfig, RunRequest

ASK = [{"role": "user", "content": "Hi"}]
KILLS = 6
LOCAL = EngineSettings(kind="local", dtype="float32", context_tokens=1024)


def publish_for_ever(url: str, run_id: str, data: Path, first: int) -> None:
    """Publish version after version, each saying its own number, until the server is gone."""
    with Client(url, retry_s=0) as client:
        for number in range(first, first + 1000):
            directory = script(data / "versions" / str(number), f"number {number}")
            try:
                client.publish(
                    PolicyPublish(
                        run_id=run_id,
                        learner=LEARNER,
                        step=number,
                        path=str(directory),
                        manifest_sha256=write_manifest(directory, {"kind": "full"}),
                        probe=Probe(token_ids=PROBE, logprobs=scripted_logprobs(directory, PROBE)),
                    )
                )
            except UpturnAPIError:
                return


def test_a_server_killed_at_any_point_of_a_swap_restarts_with_a_complete_version_as_champion(tmp_path: Path) -> None:
    data, base = tmp_path / "data", script(tmp_path / "script", "number 0")
    rng, run_id, served = random.Random(0), None, []
    for kill in range(KILLS + 1):
        with process(data, base, "--engine.kind", "scripted") as (server, url), Client(url) as client:
            policies = client.policies().data
            champion = next(p for p in policies if p.champion)
            said = client_says(url)
            text = json.loads((Path(champion.path) / "script.json").read_text())["answers"][0]
            assert said == (text, champion.id)
            if champion.version:
                verify_manifest(Path(champion.path), champion.manifest_sha256 or "")
            served.append(champion.version)
            if kill == KILLS:
                break
            run_id = run_id or client.create_run(RunRequest(config=RunConfig(steps=10_000))).id
            assert client.claim_run(RunClaim(learner=LEARNER)) is not None
            publisher = threading.Thread(target=publish_for_ever, args=(url, run_id, data, 1000 * (kill + 1)))
            publisher.start()
            time.sleep(rng.uniform(0.3, 0.6))
            server.send_signal(signal.SIGKILL)
            publisher.join(timeout=60)
    assert served == sorted(served) and served[-1] > 0, "no version was ever published before a kill"


def client_says(url: str) -> tuple[str | None, str]:
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as api:
        answer = api.chat.completions.create(model="policy", messages=ASK)
        return answer.choices[0].message.content, answer.system_fingerprint


@pytest.mark.timeout(300)
def test_a_learner_killed_while_it_writes_leaves_no_partial_version_and_the_run_continues(tmp_path: Path) -> None:
    with serve_tiny(tmp_path, "local") as live:
        for _ in range(3):
            record_group(live)
        run = live.client.create_run(
            RunRequest(config=RunConfig(steps=2, live=FEW_LIVE, optimizer=OptimizerConfig(lr=1e-3), checkpoint_every=1))
        )
        versions = tmp_path / "data" / "learner" / "policies" / run.id
        deadline = time.monotonic() + 120
        while not list(versions.glob("step-*")):
            assert time.monotonic() < deadline, "nothing was written"
            time.sleep(0.001)
        for learner in psutil.Process().children(recursive=True):
            if "learner" in learner.cmdline() and "run" in learner.cmdline():
                learner.kill()
        ended = wait_for(live, run.id)
        assert ended.state == "done", ended.reason
        for policy in live.client.policies().data:
            if policy.version:
                assert policy.manifest_sha256 is not None and (Path(policy.path) / MANIFEST).is_file()
        assert live.client.policies().data[0].champion


def test_a_learner_whose_disk_is_full_fails_its_run_with_the_reason_and_the_champion_keeps_serving(
    tmp_path: Path,
) -> None:
    model = make_tiny_model(tmp_path / "model")
    with serving(settings_for(tmp_path / "data", model=str(model), engine=LOCAL)) as live:
        record_group(live)
        run = live.client.create_run(
            RunRequest(config=RunConfig(steps=1, live=FEW_LIVE, optimizer=OptimizerConfig(lr=1e-3)))
        )
        command = (
            f"ulimit -f 64; exec {sys.executable} -m learner run --server {live.url} --once "
            f"--work-dir {tmp_path / 'data' / 'learner'} --threads 1"
        )
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            preexec_fn=_no_signal,
        )
        assert done.returncode == 1, done.stderr[-2000:]
        ended = live.client.run(run.id)
        assert ended.state == "failed" and ended.reason is not None and "arge" in ended.reason, ended.reason
        assert [p.version for p in live.client.policies().data] == [0]
        answer = live.openai().chat.completions.create(model="policy", messages=ASK, max_tokens=4)
        assert answer.system_fingerprint == "policy@0"


def _no_signal() -> None:
    """A file that grows beyond its limit is an error of the write, as on a full disk, not the end of the process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
