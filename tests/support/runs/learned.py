"""Runs with real weights and the real learner process."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path

from server.engines.settings import EngineSettings
from server.training.settings import LearnerSettings
from tests.support.live import Live, serving, settings_for
from tests.support.tiny_model import make_tiny_model
from upturn.wire import EpisodeOpen, RewardRequest, RunView

ASK = [{"role": "user", "content": "Say a letter."}]


def serve_tiny(directory: Path, engine: str, kind: str = "full", nice: int = 0) -> AbstractContextManager[Live]:
    """Serve a tiny random model in float32, with a learner."""
    model = make_tiny_model(directory / "model")
    chosen = EngineSettings(kind=engine, dtype="float32", context_tokens=1024, kv_cache_gib=0.3, max_concurrent=8)
    return serving(
        settings_for(
            directory / "data",
            model=str(model),
            engine=chosen,
            weights=kind,
            learner=LearnerSettings(start=True, threads=1, nice=nice),
        )
    )


def wait_for(live: Live, run_id: str, seconds: float = 600) -> RunView:
    """Wait until a run has ended; fail with the learner's log if it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run = live.client.run(run_id)
        if run.state not in ("queued", "running"):
            return run
        time.sleep(0.2)
    log = live.parts.settings.data_dir / "logs" / f"learner-{run_id}.log"
    raise AssertionError(f"the run did not end: {run}\n{log.read_text() if log.exists() else 'no log'}")


def record_group(live: Live) -> None:
    """Record a group of three live episodes, one of them rewarded with 1."""
    for value in (1.0, 0.0, 0.0):
        opened = live.client.open_episode(EpisodeOpen(group="letters"))
        live.openai(key=opened.key).chat.completions.create(model="policy", messages=ASK, max_tokens=12)
        live.client.reward(opened.id, RewardRequest(value=value))
        live.client.close_episode(opened.id)
