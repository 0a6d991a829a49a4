"""Each router reaches the services listed here, and no others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute

from server.api.services import Provider
from server.app import create_app
from tests.support.live import settings_for

API = Path(__file__).parents[3] / "server" / "api"
DIALECT = "Callers Conversations"
PAGES = (
    *("assets", "login", "site"),
    *("pages.by_hand", "pages.compare", "pages.episode", "pages.episodes", "pages.leaderboard", "pages.learning"),
    *("pages.runs", "pages.schedule", "pages.start_run", "pages.untrainable", "pages.versions"),
)
REACHES = {
    "campaigns": "Campaigns",
    "dialects.chat": DIALECT,
    "dialects.completions": DIALECT,
    "dialects.messages": DIALECT,
    "dialects.responses": DIALECT,
    "dialects.extras.tokens": DIALECT,
    "environments": "OpenEnvironments",
    "episodes": "Callers Database Episodes Indexer Openings Privacy Renderer",
    "keys": "Keys Privacy",
    "leaderboard": "Leaderboard Residency",
    "notifications": "Notifications",
    "operations": "Draining Engine Metrics Pointers Readiness ServerFacts Turns",
    "pages": "Metrics Pointers",
    "people.demonstrations": "Callers Episodes OpenEnvironments Turns",
    "plays": "Plays Residency",
    "policies": "Champions Database Engine Pointers Publisher Residency Runs Serving",
    "rehearsals": "Rehearsals",
    "rewards": "Callers Database Episodes Opinions RewardSources Schedule Scorers",
    "runs": "Batches LearnerSteps Runs Schedule ScheduleSettings Serving",
    "schedule": "Schedule",
    "served.agentgym": "Guests",
    "served.mcp": "Guests",
    "served.openenv": "Callers Guests Limits",
    "served.retrieve": "",
    "shadow": "Database",
    "stats": "Database Engine Indexer Metrics Pointers Readiness Schedule ServerFacts Turns",
    "steps": "Callers Episodes OpenEnvironments",
    # Pages call routes, and reach nothing else.
    **dict.fromkeys((f"server.dashboard.{module}" for module in PAGES), ""),
    "server.dashboard.pages.home": "Draining",
}


def reached(dependant: Dependant) -> Iterator[str]:
    """Yield the names of the services that a route asks for, through all its dependencies."""
    if isinstance(dependant.call, Provider):
        yield dependant.call.kind.__name__
    for inner in dependant.dependencies:
        yield from reached(inner)


def routes(tmp_path: Path) -> dict[str, list[Any]]:
    """Return the routes of the application by the module that defines them."""
    found = defaultdict(list)
    for route in create_app(settings_for(tmp_path)).routes:
        if isinstance(route, APIRoute | APIWebSocketRoute):
            found[route.endpoint.__module__.removeprefix("server.api.")].append(route)
    return found


def test_every_router_reaches_its_listed_services_only(tmp_path: Path) -> None:
    services = {
        module: " ".join(sorted({name for route in of_module for name in reached(route.dependant)}))
        for module, of_module in routes(tmp_path).items()
    }
    assert services == REACHES


@pytest.mark.parametrize(
    ("way", "allowed"),
    [
        ("app.state", {"services.py"}),
        ("import provide", {"access/authentication.py", "steps.py"}),
        ("from server.wiring", set()),
        ("from server.settings", set()),
    ],
)
def test_no_module_of_the_api_bypasses_its_declared_services(way: str, allowed: set[str]) -> None:
    assert {str(path.relative_to(API)) for path in API.rglob("*.py") if way in path.read_text()} == allowed


def test_the_fast_path_of_steps_reaches_what_its_route_declares(tmp_path: Path) -> None:
    (step,) = routes(tmp_path)["steps"]
    source = (API / "steps.py").read_text()
    assert "for kind in (Callers, Episodes, OpenEnvironments)" in source
    assert set(reached(step.dependant)) == {"Callers", "Episodes", "OpenEnvironments"}
