"""The pages on algorithms name every setting and every metric."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from learner.loop import do_next_run
from tests.unit.learner.test_learner_loop import CONFIG, set_up
from upturn.wire import AdaptiveHorizon, Guards, PpoConfig, RunConfig

PAGES = Path(__file__).parents[3] / "docs" / "algorithms"
PLAIN = {
    "adapter": {"kind": "adapter", "kl_coef": 0.1, "reference_reset_every": 1},
    "ppo": {"algorithm": "ppo"},
    "dpo": {"algorithm": "dpo"},
    "adaptive": {"schedule": AdaptiveHorizon(rounds=[1, 2])},
}


def named() -> set[str]:
    """Return every name in code marks on the pages."""
    return {name for page in PAGES.glob("*.md") for name in re.findall(r"`([\w.]+)(?:: \w+)?`", page.read_text())}


@pytest.mark.parametrize(
    ("model", "prefix"), [(RunConfig, ""), (PpoConfig, "ppo."), (Guards, "guards."), (AdaptiveHorizon, "")]
)
def test_every_setting_is_explained(model: type[BaseModel], prefix: str) -> None:
    assert [name for name in model.model_fields if prefix + name not in named() and name not in named()] == []


@pytest.mark.parametrize("fields", list(PLAIN.values()), ids=list(PLAIN))
def test_every_metric_that_a_step_reports_is_explained(tmp_path: Path, fields: dict) -> None:
    server, settings = set_up(tmp_path, CONFIG.model_copy(update=fields))
    server.teach_nothing_at = {1}
    assert do_next_run(server.client(), settings).state == "done"
    reported = {name for step in server.run.steps for name in step.metrics}
    assert len(reported) > 15
    assert sorted(reported - named()) == []


def test_every_algorithm_has_a_page() -> None:
    overview = (PAGES / "README.md").read_text()
    algorithms = RunConfig.model_fields["algorithm"].annotation.__args__
    assert [a for a in algorithms if f"`{a}`" not in overview] == []
    assert all((PAGES / page).is_file() for page in re.findall(r"\((\w+\.md)\)", overview))
