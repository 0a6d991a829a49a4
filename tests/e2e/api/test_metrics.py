"""Metrics: counters match the record, and docs/metrics.md lists all of them."""

from __future__ import annotations

from pathlib import Path

from tests.support.live import Live, read_metrics
from upturn.wire import EpisodeOpen, RunClaim, RunConfig, RunEnd, RunRequest

ROOT = Path(__file__).parents[3]
ASK = [{"role": "user", "content": "Hi"}]


def test_turns_forks_and_ends_are_counted_with_their_reasons(live: Live) -> None:
    opened = live.client.open_episode(EpisodeOpen())
    api = live.openai(key=opened.key)
    first = api.chat.completions.create(model="policy", messages=ASK).choices[0].message.content
    talk = [*ASK, {"role": "assistant", "content": first}, {"role": "user", "content": "More"}]
    api.chat.completions.create(model="policy", messages=talk, temperature=0)
    api.chat.completions.create(model="policy", messages=[{"role": "user", "content": "Something else"}])
    live.client.close_episode(opened.id)
    values = read_metrics(live)
    turns = live.client.episode(opened.id).turns
    assert values['upturn_turns_total{outcome="trainable"}'] == 2
    assert values['upturn_turns_total{outcome="greedy"}'] == 1
    assert values["upturn_forks_total"] == 1
    assert values["upturn_answer_tokens_total"] == sum(turn.completion_tokens for turn in turns)
    assert values["upturn_prompt_tokens_total"] == sum(turn.prompt_tokens for turn in turns)
    assert values['upturn_turn_seconds_count{training="no"}'] == 3
    assert values['upturn_episodes_ended_total{error_class="",status="closed"}'] == 1
    assert (values["upturn_champion_version"], values["upturn_engine_up"]) == (0, 1)


def test_turns_during_training_are_counted_separately(live: Live) -> None:
    live.client.create_run(RunRequest(config=RunConfig(steps=1)))
    run = live.client.claim_run(RunClaim(learner="l"))
    assert run is not None
    live.openai().chat.completions.create(model="policy", messages=ASK)
    live.client.end_run(run.id, RunEnd(learner="l", state="done", reason="tested"))
    live.openai().chat.completions.create(model="policy", messages=ASK)
    values = read_metrics(live)
    assert (
        values['upturn_turn_seconds_count{training="yes"}'] == values['upturn_turn_seconds_count{training="no"}'] == 1
    )


def test_every_metric_is_documented(live: Live) -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    kinds = [line.split()[2:] for line in live.http.get("/metrics").text.splitlines() if line.startswith("# TYPE")]
    names = [name for name, _ in kinds if not name.endswith("_created")]
    assert names and [name for name in names if f"`{name}`" not in documented] == []
