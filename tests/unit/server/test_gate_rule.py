"""The promotion gate's rule: which candidates are promoted, and on what evidence."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from server.training.evaluations import calls_well
from server.training.gate_rule import Comparison, Measured, Pair, bootstrap, decide
from server.training.objections import OBJECTIONS
from server.training.regression import compare
from server.training.settings import GateSettings, WatchSettings
from server.versions import ledger
from upturn.wire import EnvironmentEvidence, Figures, GateEvidence, Interval

RULE = GateSettings()


def measured(share: float | list[float], tasks: int = 20, repetitions: int = 4, **more: int) -> Measured:
    """Return results with a share of successes, the same for every task or one per task."""
    shares = share if isinstance(share, list) else [share] * tasks
    verdicts = {f"task {n}": [r < round(s * repetitions) for r in range(repetitions)] for n, s in enumerate(shares)}
    counts = {"episodes": len(shares) * repetitions, "steps": 100, "invalid_steps": 0, **more}
    return Measured("eval", verdicts, **counts)


def judged(
    rule: GateSettings = RULE, metrics: dict[str, float] | None = None, **pairs: tuple[Measured, Measured]
) -> tuple[bool, list[str]]:
    compared = Comparison(1, 2, 10, 0, {name: Pair(*pair) for name, pair in pairs.items()}, metrics or {})
    evidence = decide(rule, compared)
    assert evidence == decide(rule, compared), "the same results must give the same decision"
    assert evidence.promoted is not bool(evidence.objections)
    return evidence.promoted, evidence.objections


@pytest.mark.parametrize("seed", range(20))
def test_a_candidate_with_the_same_results_is_not_promoted(seed: int) -> None:
    rng = random.Random(seed)
    same = measured([rng.choice([0, 0.25, 0.5, 1]) for _ in range(rng.randint(10, 50))])
    promoted, why = judged(a=(same, same), b=(measured(1.0), measured(1.0)))
    assert not promoted and why[0].startswith("the mean gain is +0.000")


@pytest.mark.parametrize("seed", range(20))
def test_a_clear_gain_is_promoted_and_the_same_loss_is_not(seed: int) -> None:
    rng = random.Random(seed)
    before = [rng.choice([0, 0.25, 0.5]) for _ in range(rng.randint(10, 50))]
    low, high = measured(before), measured([share + 0.5 for share in before])
    assert judged(a=(low, high)) == (True, [])
    promoted, why = judged(a=(high, low))
    assert not promoted and len(why) == 2


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_promoted_about_as_rarely_as_the_confidence_allows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    won = 0
    for _ in range(20):
        first, second = ([list(map(bool, row)) for row in rng.random((40, 4)) < 0.5] for _ in range(2))
        pair = tuple(
            Measured("eval", {f"task {n}": row for n, row in enumerate(rows)}, 160, 1, 0) for rows in (first, second)
        )
        won += judged(a=pair)[0]
    assert won <= 4


def test_a_loss_beyond_the_margin_in_one_environment_rejects_despite_gains_in_others() -> None:
    won, lost = (measured(0.0), measured(1.0)), (measured(1.0), measured([1.0] * 18 + [0.0] * 2))
    promoted, why = judged(a=won, b=won, c=lost)
    assert not promoted and why == ["c: success changed by -0.100, the allowed fall is 0.05"]
    assert judged(GateSettings(margin=0.2), a=won, b=won, c=lost) == (True, [])


def test_every_environment_has_the_same_weight_for_any_number_of_tasks() -> None:
    few, many = [1.0] * 10, [0.0] * 1000
    assert bootstrap([few, many], 0.95, 0)[0].mean == 0.5


@pytest.mark.parametrize("seed", range(10))
def test_pairing_detects_a_gain_that_is_hidden_by_unequal_task_difficulty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.choice([0.0, 0.25, 0.75], size=40)
    after = before + rng.choice([0.0, 0.25], size=40)
    paired = bootstrap([list(after - before)], 0.95, seed)[0]
    means = [np.mean(rng.choice(after, 40)) - np.mean(rng.choice(before, 40)) for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert paired.low > 0 and paired.high - paired.low < 0.6 * (high - low)
    assert paired.low < np.mean(after - before) == pytest.approx(paired.mean)


def test_the_interval_equals_that_of_drawing_task_after_task() -> None:
    rng = np.random.default_rng(3)
    gains = list(rng.choice([-0.5, -0.25, 0.0, 0.25, 0.5, 1.0], size=25))
    drawn = np.mean(rng.choice(gains, size=(20_000, 25)), axis=1)
    interval = bootstrap([gains], 0.9, 0)[0]
    assert (interval.low, interval.high) == pytest.approx(np.quantile(drawn, [0.05, 0.95]), abs=0.02)
    assert bootstrap([gains], 0.9, 0) == bootstrap([gains], 0.9, 0)


def test_episodes_without_a_verdict_are_not_losses_but_too_many_reject_the_candidate() -> None:
    won = measured(1.0)
    some = Measured("eval", {**won.verdicts, "task 0": []}, won.episodes, 1, 0)
    assert judged(a=(measured(0.0), some)) == (True, [])
    for pair in ((measured(0.0), measured(1.0, episodes=100)), (measured(0.0, episodes=100), measured(1.0))):
        promoted, why = judged(a=pair)
        assert not promoted and "20 of 100 episodes of version" in why[0]


def test_a_candidate_with_too_few_tasks_is_rejected() -> None:
    promoted, why = judged(a=(measured(0.0, tasks=9), measured(1.0, tasks=9)))
    assert not promoted and why == ["a: 9 tasks have a verdict on both versions, 10 are needed"]
    assert judged()[1] == ["nothing was measured"]


def test_bad_tool_calls_and_slow_answers_are_bounded_if_they_were_measured() -> None:
    before = replace(measured(0.0), calls=100, bad_calls=1, latency_ms=200.0)
    after = replace(measured(1.0), calls=50, bad_calls=5, latency_ms=500.0)
    assert judged(a=(before, after))[1] == ["a: 10.0% of the tool calls could not be parsed, 1.0% of the champion's"]
    rule = GateSettings(max_tool_error_rise=None, max_latency_ratio=2.0)
    assert judged(rule, a=(before, after))[1] == [
        "a: an answer takes 500 ms, 2.50 times the champion's; at most 2 times is allowed"
    ]
    assert judged(GateSettings(max_tool_error_rise=0.1, max_latency_ratio=3.0), a=(before, after))[0]
    rule = GateSettings(max_tool_error_rise=0.0, max_latency_ratio=1.0)
    assert judged(rule, a=(measured(0.0), after))[0] and judged(rule, a=(before, measured(1.0)))[0]


def test_a_tool_call_is_good_if_its_arguments_have_names() -> None:
    def answer(content: str | None = None, *arguments: str) -> dict[str, Any]:
        calls = [{"function": {"name": "go", "arguments": written}} for written in arguments]
        return {"content": content, **({"tool_calls": calls} if calls else {})}

    assert calls_well(answer("I go north")) is None and calls_well(answer()) is None
    assert calls_well(answer(None, "{}", '{"to": 1}')) is True
    for bad in (answer("<tool_call>{</tool_call>"), answer(None, "north"), answer(None, "{}", "[1]")):
        assert calls_well(bad) is False


def test_invalid_steps_the_kl_and_the_entropy_are_bounded() -> None:
    pair = (measured(0.0, invalid_steps=10), measured(1.0, invalid_steps=16))
    assert judged(a=pair)[1] == ["a: 16.0% of the steps could not be understood, 10.0% of the champion's"]
    assert judged(GateSettings(max_invalid_rise=0.1), a=pair)[0]
    pair = (measured(0.0), measured(1.0))
    rule = GateSettings(max_kl=0.1, min_entropy=0.2)
    assert judged(rule, a=pair)[0], "bounds on metrics that the run lacks must not apply"
    assert judged(rule, {"reference_kl": 0.05, "entropy": 0.3}, a=pair)[0]
    assert len(judged(rule, {"reference_kl": 0.2, "entropy": 0.1}, a=pair)[1]) == 2


def shown(**more: Any) -> Figures:
    """Return figures of 64 episodes that nothing speaks against."""
    return Figures.model_validate(
        {"evaluation_id": "e", "success_rate": 0.5, "episodes": 64, "without_verdict": 0, "steps": 64,
         "invalid_steps": 16, "calls": 64, "bad_calls": 16, "latency_ms": 100.0, **more}
    )  # fmt: skip


BOUNDS = GateSettings(
    margin=0.25,
    min_gain=0.25,
    min_tasks=10,
    max_errors=0.25,
    max_invalid_rise=0.25,
    max_tool_error_rise=0.25,
    max_latency_ratio=2.0,
    max_kl=0.5,
    min_entropy=0.5,
)


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        ({"candidate": {"without_verdict": 16}}, {"candidate": {"without_verdict": 17}}),
        ({"champion": {"without_verdict": 16}}, {"champion": {"without_verdict": 17}}),
        ({"tasks": 10}, {"tasks": 9}),
        ({"gain": -0.25}, {"gain": -0.26}),
        ({"gain": None}, {"gain": -1.0}),
        ({"candidate": {"invalid_steps": 32}}, {"candidate": {"invalid_steps": 33}}),
        ({"candidate": {"steps": 0, "invalid_steps": 0}}, {"candidate": {"steps": 1, "invalid_steps": 1}}),
        ({"candidate": {"bad_calls": 32}}, {"candidate": {"bad_calls": 33}}),
        ({"candidate": {"bad_calls": 0, "calls": 0}}, {"candidate": {"bad_calls": 1, "calls": 1}}),
        ({"champion": {"calls": 0}, "candidate": {"bad_calls": 64}}, {"candidate": {"bad_calls": 64}}),
        ({"candidate": {"latency_ms": 200.0}}, {"candidate": {"latency_ms": 200.5}}),
        ({"candidate": {"latency_ms": None}}, {"champion": {"latency_ms": 49.0}}),
        ({"champion": {"latency_ms": 0.0}}, {"champion": {"latency_ms": 1.0}}),
        ({"low": 0.251}, {"low": 0.25}),
        ({"metrics": {"reference_kl": 0.5}}, {"metrics": {"reference_kl": 0.501}}),
        ({"metrics": {"entropy": 0.5}}, {"metrics": {"entropy": 0.499}}),
    ],
)
def test_each_bound_of_the_gate_refuses_beyond_it_and_not_at_it(
    allowed: dict[str, Any], refused: dict[str, Any]
) -> None:
    def reasons(rule: GateSettings, **change: Any) -> list[str]:
        mean = change.get("gain", 0.5)
        evidence = GateEvidence(
            champion=1,
            candidate=2,
            horizon=1,
            method="m",
            gain=Interval(mean=0.5, low=change.get("low", 0.5), high=0.5),
            environments={
                "a": EnvironmentEvidence(
                    tasks=change.get("tasks", 10),
                    gain=None if mean is None else Interval(mean=mean, low=mean, high=mean),
                    champion=shown(**change.get("champion", {})),
                    candidate=shown(**change.get("candidate", {})),
                )
            },
            metrics=change.get("metrics", {}),
            rule={},
            objections=[],
            promoted=False,
        )
        return [reason for objects in OBJECTIONS for reason in objects(evidence, rule)]

    assert reasons(BOUNDS) == [] == reasons(BOUNDS, **allowed)
    assert len(reasons(BOUNDS, **refused)) == 1


def test_bounds_that_are_off_refuse_nothing() -> None:
    off = GateSettings(max_tool_error_rise=None, max_latency_ratio=None, max_kl=None, min_entropy=None)
    before, after = (replace(measured(share), calls=9, latency_ms=9.0) for share in (0.0, 1.0))
    worse = replace(after, bad_calls=9, latency_ms=9e9)
    assert judged(off, {"reference_kl": 9e9, "entropy": 0.0}, a=(before, worse)) == (True, [])


@pytest.mark.parametrize("objections", [[], ["a: 9 tasks have a verdict on both versions, 10 are needed"]])
def test_evidence_recorded_without_a_decision_derives_it_from_its_objections(objections: list[str]) -> None:
    stored = decide(RULE, Comparison(1, 2, 10, 0, {}, {})).model_dump(mode="json") | {"objections": objections}
    del stored["promoted"]
    for loaded in (ledger.EVIDENCE.validate_python(stored), GateEvidence.model_validate_json(json.dumps(stored))):
        assert isinstance(loaded, GateEvidence) and loaded.promoted is (not objections)


def test_recorded_evidence_on_live_rewards_still_loads() -> None:
    evidence = compare(WatchSettings(), (1, [1.0] * 30), (2, [0.0] * 30))
    assert evidence is not None
    assert ledger.EVIDENCE.validate_python(evidence.model_dump(mode="json")) == evidence
