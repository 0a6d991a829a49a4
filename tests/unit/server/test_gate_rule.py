"""The promotion gate's rule: which candidates are promoted, and on what evidence."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from server.training.gate_rule import Comparison, Measured, Pair, decide, is_clear
from server.training.judging.audit.texts import calls_well
from server.training.judging.sign_flips import interval
from server.training.objections import OBJECTIONS
from server.training.regression import compare
from server.training.settings import GateSettings, WatchSettings
from server.versions import ledger
from upturn.wire import EnvironmentEvidence, Figures, GainTest, GateEvidence, Interval

RULE = GateSettings()


def measured(share: float | list[float], tasks: int = 20, repetitions: int = 4, **more: int) -> Measured:
    """Return results with a share of successes, the same for every task or one per task."""
    shares = share if isinstance(share, list) else [share] * tasks
    verdicts = {f"task {n}": [r < round(s * repetitions) for r in range(repetitions)] for n, s in enumerate(shares)}
    counts = {"episodes": len(shares) * repetitions, "steps": 100, "invalid_steps": 0, **more}
    return Measured(("eval",), verdicts, **counts)


def judged(
    rule: GateSettings = RULE, metrics: dict[str, float] | None = None, **pairs: tuple[Measured, Measured]
) -> tuple[bool, list[str]]:
    compared = Comparison(1, 2, 10, {name: Pair(*pair) for name, pair in pairs.items()}, metrics or {})
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


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_promoted_about_as_rarely_as_the_confidence_allows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    won = 0
    for _ in range(20):
        first, second = ([list(map(bool, row)) for row in rng.random((40, 4)) < 0.5] for _ in range(2))
        pair = tuple(
            Measured(("eval",), {f"task {n}": row for n, row in enumerate(rows)}, 160, 1, 0) for rows in (first, second)
        )
        won += judged(a=pair)[0]
    assert won <= 3


def test_a_loss_beyond_the_margin_in_one_environment_rejects_despite_gains_in_others() -> None:
    won, lost = (measured(0.0), measured(1.0)), (measured(1.0), measured([1.0] * 18 + [0.0] * 2))
    promoted, why = judged(a=won, b=won, c=lost)
    assert not promoted and why == ["c: success changed by -0.100, the allowed fall is 0.05"]
    assert judged(GateSettings(margin=0.2), a=won, b=won, c=lost) == (True, [])


def test_every_environment_has_the_same_weight_for_any_number_of_tasks() -> None:
    compared = Comparison(1, 2, 10, {}, {})
    pairs = {
        "few": Pair(measured(0.0, tasks=10), measured(1.0, tasks=10)),
        "many": Pair(measured(1.0, tasks=1000), measured(0.0, tasks=1000)),
    }
    evidence = decide(RULE, replace(compared, pairs=pairs))
    assert evidence.gain is not None and evidence.gain.mean == 0.0
    pairs["many"] = Pair(measured(0.5, tasks=1000), measured(0.75, tasks=1000))
    evidence = decide(RULE, replace(compared, pairs=pairs))
    assert evidence.gain is not None and evidence.gain.mean == 0.625 and evidence.promoted


@pytest.mark.parametrize("seed", range(10))
def test_pairing_detects_a_gain_that_is_hidden_by_unequal_task_difficulty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.choice([0.0, 0.25, 0.75], size=40)
    after = before + rng.choice([0.0, 0.25], size=40)
    paired_low, paired_high = interval([after - before], 0.95)
    means = [np.mean(rng.choice(after, 40)) - np.mean(rng.choice(before, 40)) for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert paired_low > 0 and paired_high - paired_low < 0.6 * (high - low)


def test_episodes_without_a_verdict_are_not_losses_but_too_many_reject_the_candidate() -> None:
    won = measured(1.0)
    some = Measured(("eval",), {**won.verdicts, "task 0": []}, won.episodes, 1, 0)
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
    def calls(*arguments: str) -> list[Any]:
        return [{"function": {"name": "go", "arguments": written}} for written in arguments]

    assert calls_well([], opened=False) is None
    assert calls_well(calls("{}", '{"to": 1}'), opened=False) is True
    for bad in (calls("north"), calls("{}", "[1]"), [{"function": {}}], [None]):
        assert calls_well(bad, opened=False) is False
    assert calls_well([], opened=True) is False


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


HARMLESS = Interval(mean=0, low=0, high=0)
BOUNDS = GateSettings(
    margin=0.25,
    guard_margin=0.25,
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
        ({"p": 0.01}, {"p": 0.0101}),
        ({"guard": Interval(mean=0, low=-0.249, high=0)}, {"guard": Interval(mean=0, low=-0.25, high=0)}),
        ({"guard": HARMLESS}, {"guard": None}),
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
            gain=Interval(mean=0.5, low=0.5, high=0.5),
            test=GainTest(
                p_value=change.get("p", 0.0), bound=0.01, level=0.02, spent=0.0, z=3.0, rounds=4, planned_rounds=8
            ),
            guards={
                "b": EnvironmentEvidence(
                    tasks=10, gain=change.get("guard", HARMLESS), champion=shown(), candidate=shown()
                )
            },
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


def test_a_candidate_needs_more_than_the_minimum_gain() -> None:
    pair = (measured(0.25), measured(0.75))
    assert judged(GateSettings(min_gain=0.25), a=pair)[0]
    assert not judged(GateSettings(min_gain=0.5), a=pair)[0]


def test_what_has_been_spent_lowers_the_level_and_results_that_cannot_be_tested_spend_nothing() -> None:
    pairs = {"a": Pair(measured(0.0), measured([0.0] * 14 + [0.25] * 6))}
    compared = Comparison(1, 2, 10, pairs, {})
    first, later = (decide(RULE, replace(compared, spent=spent)) for spent in (0.0, 0.025))
    assert first.promoted and first.test is not None and first.test.level == pytest.approx(0.025)
    assert not later.promoted and later.test is not None and later.test.level == pytest.approx(0.00075)
    assert later.test.p_value == first.test.p_value == 2**-6 and later.test.spent == 0.025
    assert "p = 0.016, at most 0.00075 is allowed" in later.objections[0]
    for untested in (decide(RULE, compared, ["it failed"]), decide(GateSettings(min_tasks=21), compared)):
        assert untested.test is None and not untested.promoted


def in_rounds(champion: Measured, candidate: Measured, played: int) -> Comparison:
    """Return a comparison of which `played` of four rounds of ten tasks have been played."""
    rounds = [{"a": [f"task {n}" for n in range(10 * number, 10 * number + 10)]} for number in range(4)]
    done = [task for tasks in rounds[:played] for task in tasks["a"]]
    pair = Pair(
        *(
            replace(version, verdicts={task: version.verdicts[task] for task in done}, episodes=4 * len(done))
            for version in (champion, candidate)
        )
    )
    return Comparison(1, 2, 10, {"a": pair}, {}, rounds=rounds, played=played)


def test_an_evaluation_ends_once_it_is_clear_and_a_clear_gain_or_loss_needs_one_round() -> None:
    low, high = measured(0.25, tasks=40), measured(1.0, tasks=40)
    slight = measured([0.25, 0.5, 0.25, 0.0, 0.5] * 8)
    assert is_clear(RULE, in_rounds(low, high, 1)) and decide(RULE, in_rounds(low, high, 1)).promoted
    assert is_clear(RULE, in_rounds(high, low, 1)) and not decide(RULE, in_rounds(high, low, 1)).promoted
    assert [is_clear(RULE, in_rounds(low, slight, played)) for played in (1, 4)] == [False, True]


def test_an_objection_that_more_tasks_may_remove_keeps_a_clear_gain_from_ending_the_evaluation() -> None:
    low, high = measured(0.25, tasks=40), measured(1.0, tasks=40)
    rule = GateSettings(min_tasks=15)
    assert [is_clear(rule, in_rounds(low, high, played)) for played in (1, 2)] == [False, True]
    assert not is_clear(rule, in_rounds(high, low, 1)), "a decision ends with a test, so that its level counts as spent"


def test_a_guard_that_may_have_become_worse_rejects_a_better_candidate() -> None:
    compared = Comparison(1, 2, 10, {"a": Pair(measured(0.0), measured(1.0))}, {})
    same = measured([0.25, 0.75] * 20)
    assert decide(RULE, replace(compared, guards={"b": Pair(same, same)})).promoted
    worse = measured([0.25, 0.5] * 20)
    evidence = decide(RULE, replace(compared, guards={"b": Pair(same, worse)}))
    assert not evidence.promoted and evidence.gain is not None and evidence.gain.mean == 1.0
    assert evidence.objections[0].startswith("guard b: success changed by -0.125 with a 90% interval")
    silent = replace(same, verdicts={}, episodes=160)
    evidence = decide(RULE, replace(compared, guards={"b": Pair(same, silent)}))
    assert not evidence.promoted and evidence.test is not None, "its level is spent"


def test_the_results_of_rounds_add_up() -> None:
    first = Measured(("e1",), {"a": [True]}, 4, 10, 1, calls=3, bad_calls=1, latency_ms=100.0)
    second = Measured(("e2",), {"b": [False, True]}, 4, 30, 2, calls=2, bad_calls=0, latency_ms=200.0)
    both = Measured.merged((first, second))
    assert both == Measured(("e1", "e2"), {"a": [True], "b": [False, True]}, 8, 40, 3, 5, 1, 175.0)
    assert (both.figures.evaluation_id, both.figures.evaluation_ids) == ("e1", ["e1", "e2"])
    assert Measured.merged((replace(first, latency_ms=None),)).latency_ms is None


@pytest.mark.parametrize("objections", [[], ["a: 9 tasks have a verdict on both versions, 10 are needed"]])
def test_evidence_recorded_without_a_decision_derives_it_from_its_objections(objections: list[str]) -> None:
    stored = decide(RULE, Comparison(1, 2, 10, {}, {})).model_dump(mode="json") | {"objections": objections}
    for added in ("promoted", "test", "guards", "report", "warnings"):
        del stored[added]
    for loaded in (ledger.EVIDENCE.validate_python(stored), GateEvidence.model_validate_json(json.dumps(stored))):
        assert isinstance(loaded, GateEvidence) and loaded.promoted is (not objections)


def test_recorded_evidence_on_live_rewards_still_loads() -> None:
    evidence = compare(WatchSettings(), (1, [1.0] * 30), (2, [0.0] * 30))
    assert evidence is not None
    assert ledger.EVIDENCE.validate_python(evidence.model_dump(mode="json")) == evidence
