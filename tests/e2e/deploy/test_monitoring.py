"""Dashboard and alerts ask for metrics that a server really has, and that docs/metrics.md explains."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.notifications.settings import NotifySettings
from server.rewards.settings import RewardSettings
from server.telemetry.settings import TelemetrySettings
from tests.support.keys import new_key
from tests.support.live import Live, script, serving, settings_for, until
from upturn.wire import RunClaim, RunConfig, RunEnd, RunRequest

ROOT = Path(__file__).parents[3]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "upturn.json").read_text())
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
OF_PROMETHEUS = {"instance", "job", "le"}
"""Labels that Prometheus and histograms add."""
SELECTOR = re.compile(r"\b(up|upturn_\w+)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")


def panel_queries() -> list[tuple[str, str]]:
    """Return the expression and the legend of every query of the dashboard."""
    found = [
        (query["expr"], query["legendFormat"]) for panel in DASHBOARD["panels"] for query in panel.get("targets", [])
    ]
    found += [(note["expr"], "") for note in DASHBOARD["annotations"]["list"]]
    return found + [
        (variable["definition"], "") for variable in DASHBOARD["templating"]["list"] if "definition" in variable
    ]


def alert_queries() -> list[tuple[str, str]]:
    """Return the expression and the texts of every alert."""
    return [(rule["expr"], " ".join(rule["annotations"].values())) for rule in RULES]


QUERIES = [*panel_queries(), *alert_queries()]


def base(name: str) -> str:
    """Return the name under which docs/metrics.md has a series of a histogram."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


def documented() -> dict[str, set[str]]:
    """Return the metrics of docs/metrics.md with their labels."""
    rows = re.findall(r"^\| `(upturn_\w+)` \| ([^|]*)\|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """The metrics of a server that has counted something in each, with the labels of their series."""
    home = tmp_path_factory.mktemp("monitored")
    settings = settings_for(
        home / "data",
        model=str(script(home / "script", "Hello there.")),
        keys="required",
        notify=NotifySettings(command=["true"]),
        telemetry=TelemetrySettings(otlp="http://127.0.0.1:9", every_s=0.5),
        rewards=RewardSettings.model_validate(
            {"functions": {"length": {"function": "tests.support.rewards.reward_functions:length"}}}
        ),
    )
    with serving(settings) as live:
        use(live)
        yield labels_of(live)


def use(live: Live) -> None:
    """Let the server count a turn, an episode's end, a score, and a notification."""
    agent, admin = new_key(live, "agent").key, new_key(live, "admin").key
    live.http.headers["authorization"] = f"Bearer {agent}"
    ask = {"model": "policy", "messages": [{"role": "user", "content": "Hi"}]}
    answer = live.http.post("/v1/chat/completions", json=ask)
    live.http.post(f"/v1/episodes/{answer.headers['x-episode-id']}/close", json={})
    live.http.headers["authorization"] = f"Bearer {admin}"
    run = live.http.post("/v1/runs", json=RunRequest(config=RunConfig(steps=1)).model_dump(mode="json")).json()
    claim = RunClaim(learner="tester", run_id=run["id"]).model_dump(mode="json")
    assert live.http.post("/v1/runs/claim", json=claim).status_code == 200
    end = RunEnd(learner="tester", state="failed", reason="tested").model_dump(mode="json")
    assert live.http.post(f"/v1/runs/{run['id']}/end", json=end).status_code == 200
    live.http.headers["authorization"] = f"Bearer {new_key(live, 'metrics').key}"
    wanted = {"upturn_scores_total", "upturn_notifications_total", "upturn_telemetry_total"}
    until(lambda: wanted <= labels_of(live).keys(), "nothing is counted")


def labels_of(live: Live) -> dict[str, set[str]]:
    """Return the names of all series of `GET /metrics` with their labels."""
    found: dict[str, set[str]] = defaultdict(set)
    for line in live.http.get("/metrics").raise_for_status().text.splitlines():
        if series := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            found[series[1]] |= set(re.findall(r'(\w+)="', series[2] or ""))
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[0][:60])
def test_every_metric_and_label_of_a_query_exists(served: dict[str, set[str]], query: tuple[str, str]) -> None:
    expression, texts = query
    selectors = SELECTOR.findall(expression)
    assert selectors
    known = set(OF_PROMETHEUS)
    for name, matchers in selectors:
        own = OF_PROMETHEUS if name == "up" else served.get(name, set()) | OF_PROMETHEUS
        assert name == "up" or name in served, f"/metrics has no {name}"
        assert name == "up" or documented().get(base(name)) is not None, f"docs/metrics.md has no {name}"
        assert {label for label, _ in MATCHER.findall(matchers)} <= own, name
        assert own - OF_PROMETHEUS <= documented().get(base(name), set()), f"docs/metrics.md lacks a label of {name}"
        known |= own
    grouped = {label.strip() for labels in GROUPING.findall(expression) for label in labels.split(",") if label.strip()}
    named = set(re.findall(r"{{\s*(\w+)\s*}}|\$labels\.(\w+)", texts))
    assert grouped | {label for pair in named for label in pair if label} <= known


def test_every_value_that_a_query_compares_with_is_documented() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    values = {value for expression, _ in QUERIES for _, value in MATCHER.findall(expression)} - {"$instance", "upturn"}
    assert values >= {"trainable", "error", "yes", "no"}
    assert [value for value in values if f"`{value}`" not in text] == []


def test_the_dashboard_shows_every_documented_metric() -> None:
    shown = {base(name) for expression, _ in panel_queries() for name, _ in SELECTOR.findall(expression)}
    assert documented() and documented().keys() - shown == set()


def test_panels_have_their_own_place_and_number() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description"} and "instance" in rule["annotations"]["summary"]


def test_prometheus_reads_the_key_where_compose_writes_it() -> None:
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    folder, name = job["authorization"]["credentials_file"].rsplit("/", 1)
    assert f"metrics-key:{folder}:ro" in services["prometheus"]["volumes"]
    assert f"/key/{name}" in services["metrics-key"]["command"][-1]
    assert "metrics-key:/key" in services["metrics-key"]["volumes"]
    assert job["static_configs"] == [{"targets": ["server:8000"]}] and job["job_name"] == "upturn"


def test_grafana_finds_data_source_and_dashboard_where_compose_mounts_them() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "upturn.yml").read_text())["providers"]
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in services
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert f"./deploy/grafana/upturn.json:{home}:ro" in services["grafana"]["volumes"]
    assert provider["options"]["path"] == home.rsplit("/", 1)[0]


def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    values = {"$instance": ".*", "$__rate_interval": "1m", "$__range": "6h", "$__interval": "1m"}
    rules = []
    for number, (expression, _) in enumerate(panel_queries()):
        if expression.startswith("label_values("):
            continue
        for name, value in values.items():
            expression = expression.replace(name, value)
        rules.append({"record": f"query:{number}", "expr": expression})
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    for command in (
        ["check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml"],
        ["check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "alerts.yml"],
        ["check", "rules", tmp_path / "queries.yml"],
    ):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
