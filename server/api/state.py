"""What every route may use: the parts that `server/app.py` has put together, found through the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from server.api.access.callers import Callers
from server.api.access.limits import Limits
from server.engines.protocol import Engine
from server.environments.plays import Plays
from server.environments.sessions import Sessions
from server.feedback.scorers import Scorers
from server.metrics import Metrics
from server.recording.episode import Episodes
from server.recording.privacy import Privacy
from server.recording.turns import Turns
from server.rendering.render import Renderer
from server.rewards.sources import RewardSources
from server.settings import Settings
from server.store.database import Database
from server.store.writer import Writer
from server.training.batches import Batches
from server.training.gate import PromotionGate
from server.training.live_watch import LiveWatch
from server.training.runs import Runs
from server.training.schedule import Schedule
from server.versions.routing import Pointers
from server.versions.shadow import Shadow
from server.versions.swap import Swap


@dataclass(slots=True)
class State:
    """The server's parts."""

    settings: Settings
    database: Database
    writer: Writer
    callers: Callers
    limits: Limits
    engine: Engine
    pointers: Pointers
    swap: Swap
    episodes: Episodes
    privacy: Privacy
    sessions: Sessions
    metrics: Metrics
    renderer: Renderer
    turns: Turns
    plays: Plays
    runs: Runs
    gate: PromotionGate
    watch: LiveWatch
    shadow: Shadow
    batches: Batches
    schedule: Schedule
    placement: str
    """Which GPU engine and learner have."""
    reward_sources: RewardSources
    scorers: Scorers


async def _state(request: Request) -> State:  # FastAPI sends a plain function to a worker thread.
    state: State = request.app.state.parts
    return state


Parts = Annotated[State, Depends(_state)]
