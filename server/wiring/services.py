"""The services that routes may ask for, by type. Which router asks for which is listed in a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.api.access.callers import Callers
from server.api.access.draining import Draining
from server.api.access.keys import Keys
from server.api.access.limits import Limits
from server.api.dialects.conversation import Conversations
from server.api.opening import Openings
from server.api.operations import ServerFacts
from server.api.served.guests import Guests, Venue
from server.engines.protocol import Engine
from server.environments.open_environments import OpenEnvironments
from server.environments.plays import Plays
from server.feedback.scorers import Scorers
from server.metrics import Metrics
from server.notifications.notifications import Notifications
from server.readiness import Readiness
from server.recording.episodes import Episodes
from server.recording.people.opinions import Opinions
from server.recording.privacy import Privacy
from server.recording.reading.indexer import Indexer
from server.recording.turns import Turns
from server.rendering.render import Renderer
from server.rewards.sources import RewardSources
from server.store.database import Database
from server.training.batches import Batches
from server.training.campaigns.nights import Campaigns
from server.training.judging.leaderboard import Leaderboard
from server.training.rehearsal.rehearsals import Rehearsals
from server.training.run_steps import LearnerSteps
from server.training.runs import Runs
from server.training.scheduling.schedule import Schedule
from server.training.scheduling.settings import ScheduleSettings
from server.versions.champion import Champions
from server.versions.publish import Publisher
from server.versions.residency import Residency
from server.versions.routing import Pointers
from server.versions.serving import Serving
from server.wiring.checks import checks
from server.wiring.parts import Parts


def services(parts: Parts) -> Mapping[Any, object]:
    """Return the services, each under its type."""
    settings, engine, pointers = parts.settings, parts.engine, parts.pointers
    episodes, environments, residency = parts.episodes, parts.environments, parts.serving.residency
    return {
        Batches: parts.batches,
        Callers: parts.callers,
        Champions: parts.champions,
        Conversations: Conversations(
            database=parts.database,
            engine=engine,
            renderer=parts.renderer,
            pointers=pointers,
            residency=residency,
            episodes=episodes,
            turns=parts.turns,
            shadow=parts.shadow,
            default_horizon=settings.default_horizon,
        ),
        Campaigns: Campaigns(parts.database),
        Database: parts.database,
        Draining: parts.draining,
        Engine: engine,
        Episodes: episodes,
        Guests: Guests(Venue(engine, pointers, episodes, environments), settings.max_body_bytes),
        Indexer: parts.index,
        Leaderboard: Leaderboard(parts.database, parts.writer, parts.plays),
        Keys: Keys(parts.database, parts.writer, parts.callers),
        LearnerSteps: parts.steps,
        Limits: parts.limits,
        Metrics: parts.metrics,
        Notifications: parts.notifications,
        OpenEnvironments: environments,
        Opinions: parts.opinions,
        Openings: Openings(engine, pointers, residency, episodes, environments, settings.default_horizon),
        Plays: parts.plays,
        Pointers: pointers,
        Privacy: parts.privacy,
        Publisher: parts.publisher,
        Readiness: Readiness(checks(parts)),
        Rehearsals: parts.rehearsals,
        Renderer: parts.renderer,
        Residency: residency,
        RewardSources: parts.reward_sources,
        Runs: parts.runs,
        Schedule: parts.schedule,
        ScheduleSettings: settings.schedule,
        Scorers: parts.scorers,
        ServerFacts: ServerFacts(settings.model, parts.placement),
        Serving: parts.serving,
        Turns: parts.turns,
    }
