"""What every route may use: the parts that `server/app.py` has put together, found through the application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from server.api.access.callers import Callers
from server.api.access.limits import Limits
from server.engines.protocol import Engine
from server.environments.open_environments import OpenEnvironments
from server.environments.plays import Plays
from server.feedback.scorers import Scorers
from server.feedback.sources import RewardSources
from server.metrics import Metrics
from server.recording.episodes import Episodes
from server.recording.privacy import Privacy
from server.recording.turns import Turns
from server.rendering.render import Renderer
from server.settings import Settings
from server.store.database import Database
from server.store.writer import Writer
from server.training.batches import Batches
from server.training.gate import PromotionGate
from server.training.live_watch import LiveWatch
from server.training.runs import Runs
from server.training.scheduling.schedule import Schedule
from server.versions.champion import Champions
from server.versions.publish import Publisher
from server.versions.residency import Residency
from server.versions.routing import Pointers
from server.versions.serving import Serving
from server.versions.shadow import Shadow


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
    serving: Serving
    residency: Residency
    publisher: Publisher
    champions: Champions
    episodes: Episodes
    privacy: Privacy
    environments: OpenEnvironments
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
