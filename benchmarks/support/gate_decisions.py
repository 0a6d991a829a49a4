"""Simulated evaluations for the promotion gate: how often candidates of known quality are promoted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from clients.demo.machine import machine
from server.training.judging.error_budget import next_level
from server.training.judging.sign_flips import SignFlips, cell_of, evaluate, hopeless, untied
from server.training.settings import GateSettings

Values = npt.NDArray[np.float64]
RULE = GateSettings()
LEVEL = (1 - RULE.confidence) / 2
REPETITIONS = 4
SIZES = (10, 25, 100)
CHANGES = (0.0, -0.03, -0.10, 0.05, 0.10, 0.20)
RESAMPLES = 1000
STUDENT = {10: 2.2622, 25: 2.0639, 100: 1.9842}
"""Quantiles of Student's distribution at 97.5 %, by number of tasks."""
ROUNDS, MOST = 8, 144
"""Rounds of a sequential evaluation, and the number of tasks with which it has the power of 100 tasks at once."""
NIGHTS, NOISE, TASKS = 100, 0.3, 400
"""Nights of a simulated season, noise per task in logits, and number of tasks of the pool."""
PRINTED = (1, 2, 10, 50, 100)
ROWS: list[list[str | float]] = []
"""Printed rows: title, then figures."""


def report(quick: bool = False) -> None:
    """Simulate and print all tables, then one line of JSON with all rows."""
    began = time.monotonic()
    each = 50 if quick else 2000
    methods_table(each)
    environments_table(each)
    guards_table(each)
    rounds_table(each)
    nights_table(5 if quick else 100)
    print(f"\n{time.monotonic() - began:.0f} s")
    print(json.dumps({"machine": machine(), "decision": "gate", "quick": quick, "rows": ROWS}))


def logit(p: Values) -> Values:
    """Return log-odds."""
    return np.log(p / (1 - p))


def chance(logits: Values) -> Values:
    """Return the probabilities of log-odds."""
    return 1 / (1 + np.exp(-logits))


def difficulties(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    """Return the champion's success on tasks: always 1/2, or uniform on [0, 1] (`mixed`)."""
    return np.full(shape, 0.5) if kind == "p=.5" else rng.beta(1, 1, shape).clip(1e-3, 1 - 1e-3)


def shift_of(kind: str, change: float) -> float:
    """Return the change of the log-odds of every task that changes the mean success by `change`."""
    population = difficulties(kind, (20_000,), np.random.default_rng(7))
    low, high = -8.0, 8.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if float(np.mean(chance(logit(population) + middle) - population)) < change
            else (low, middle)
        )
    return (low + high) / 2


def played(p: Values, repetitions: int, rng: np.random.Generator) -> Values:
    """Return the mean success on tasks over repetitions."""
    return rng.binomial(repetitions, p) / repetitions


def gains_of(kind: str, change: float, shape: tuple[int, ...], rng: np.random.Generator) -> Values:
    """Return gains of tasks: the candidate's mean success minus the champion's."""
    before = difficulties(kind, shape, rng)
    after = chance(logit(before) + shift_of(kind, change))
    return played(after, REPETITIONS, rng) - played(before, REPETITIONS, rng)


def by_percentile(gains: Values, rng: np.random.Generator) -> bool:
    """Percentile bootstrap."""
    return float(np.quantile(_resampled(gains, rng), LEVEL)) > 0


def by_bca(gains: Values, rng: np.random.Generator) -> bool:
    """Bias-corrected and accelerated bootstrap (Efron, 1987)."""
    normal, means = NormalDist(), _resampled(gains, rng)
    below = (float((means < gains.mean()).mean()) + float((means <= gains.mean()).mean())) / 2
    if not 0 < below < 1:
        return bool(gains.mean() > 0)
    bias = normal.inv_cdf(below)
    left_out = (gains.sum() - gains) / (len(gains) - 1)
    spread = left_out.mean() - left_out
    acceleration = float((spread**3).sum() / (6 * (spread**2).sum() ** 1.5)) if spread.any() else 0.0
    z = bias + normal.inv_cdf(LEVEL)
    return float(np.quantile(means, normal.cdf(bias + z / (1 - acceleration * z)))) > 0


def by_student(gains: Values, _: np.random.Generator) -> bool:
    """Student's t, with at least the variance of one episode that differs."""
    floor = 1 / REPETITIONS / len(gains)
    error = max(float(gains.std(ddof=1)), floor) / len(gains) ** 0.5
    return float(gains.mean()) > STUDENT[len(gains)] * error


def by_flips(gains: Values, _: np.random.Generator) -> bool:
    """Sign flips, the gate's own test."""
    return evaluate([untied(gains)], LEVEL).passed


METHODS: dict[str, Callable[[Values, np.random.Generator], bool]] = {
    "percentile": by_percentile,
    "BCa": by_bca,
    "t": by_student,
    "sign flips": by_flips,
}


def methods_table(each: int) -> None:
    """Print how often each method promotes, by the true change of the mean success."""
    print(f"P(promote) by true change, {REPETITIONS} repetitions, level {LEVEL:.3f}, {each} simulations")
    _header("method, tasks", CHANGES)
    for kind in ("p=.5", "mixed"):
        for size in SIZES:
            for name, promotes in METHODS.items():
                rng = np.random.default_rng(size)
                row = [
                    np.mean([promotes(gains, rng) for gains in gains_of(kind, change, (count, size), rng)])
                    for change in CHANGES
                    if (count := each if change else 4 * each)
                ]
                _row(f"{name}, {size} {kind}", row)


def environments_table(each: int) -> None:
    """Print how often the gate's test promotes on three environments of equal weight and unequal size."""
    print("\nP(promote), three environments of 10, 25 and 50 tasks with equal weight, mixed")
    _header("", CHANGES)
    sizes = (10, 25, 50)
    rng = np.random.default_rng(3)
    row = []
    for change in CHANGES:
        drawn = [untied(gains_of("mixed", change, (each, size), rng)) / size for size in sizes]
        cell = cell_of([1 / size for size in sizes], sum(sizes))
        tests = [evaluate([np.concatenate(of)], LEVEL, cell=cell) for of in zip(*drawn, strict=True)]
        row.append(float(np.mean([test.passed for test in tests])))
    _row("sign flips", row)


def guards_table(each: int) -> None:
    """Print how often a guard admits a candidate, by the true change of the mean success there."""
    print(f"\nP(a guard admits), margin {RULE.guard_margin:g}, confidence {RULE.guard_confidence:.0%}, mixed")
    changes = (0.0, -0.03, -0.05, -0.10, -0.20)
    _header("", changes)
    for size in (25, 50, 100, 200):
        rng = np.random.default_rng(4)
        row = []
        for change in changes:
            drawn = gains_of("mixed", change, (each, size), rng) + RULE.guard_margin
            row.append(float(np.mean([evaluate([of], (1 - RULE.guard_confidence) / 2).passed for of in drawn])))
        _row(f"{size} tasks", row)


@dataclass(frozen=True, slots=True)
class Decided:
    """One sequential decision."""

    promoted: bool
    tasks: int


def in_rounds(gains: Values, level: float, rounds: int = ROUNDS) -> Decided:
    """Decide on gains in rounds as the gate does."""
    test, tasks = SignFlips(level, rounds), 0
    for part in np.array_split(untied(gains), rounds):
        outcome, tasks = test.add(part), tasks + len(part)
        if outcome.passed or hopeless(outcome.z, level, outcome.round, rounds):
            break
    return Decided(test.outcome.passed, tasks)


def rounds_table(each: int) -> None:
    """Print power and cost of evaluations in rounds, relative to 100 tasks at once."""
    print(f"\nUp to {MOST} tasks in {ROUNDS} rounds: P(promote) / mean episodes relative to 100 tasks at once")
    _header("", (*CHANGES, "mean"))
    for kind in ("p=.5", "mixed"):
        rng = np.random.default_rng(5)
        wins, costs = [], []
        for change in CHANGES:
            decided = [in_rounds(gains, LEVEL) for gains in gains_of(kind, change, (each, MOST), rng)]
            wins.append(np.mean([one.promoted for one in decided]))
            costs.append(np.mean([one.tasks for one in decided]) / 100)
        _row(f"promoted, {kind}", wins)
        _row(f"episodes, {kind}", [*costs, np.mean(costs)])
    print("\nP(promote) for +0.10, and mean episodes for no change, by number of decisions since the last promotion")
    _header("", PRINTED)
    designs = {"100 at once": (100, 1)}
    designs |= {f"{ROUNDS} rounds to {most}": (most, ROUNDS) for most in (MOST, 2 * MOST)}
    for kind in ("p=.5", "mixed"):
        for name, (most, rounds) in designs.items():
            rng = np.random.default_rng(6)
            power, cost = [], []
            for night in PRINTED:
                level = levels(night)[-1]
                better, same = (gains_of(kind, change, (each // 2, most), rng) for change in (0.10, 0.0))
                power.append(float(np.mean([in_rounds(gains, level, rounds).promoted for gains in better])))
                cost.append(float(np.mean([in_rounds(gains, level, rounds).tasks for gains in same])) / 100)
            _row(f"promoted, {name}, {kind}", power)
            _row(f"episodes, {name}, {kind}", cost)
    _row("level", [levels(night)[-1] for night in PRINTED], digits=5)


def levels(nights: int) -> list[float]:
    """Return the levels of decisions without a promotion."""
    found: list[float] = []
    for _ in range(nights):
        found.append(next_level(RULE, sum(found)))
    return found


@dataclass(frozen=True, slots=True)
class Season:
    """What changes from night to night, in log-odds of success."""

    drift: float = 0.0
    """Change of each candidate on all tasks."""
    noise: float = 0.0
    """Standard deviation of its change per task."""
    continued: bool = False
    """Whether a candidate starts from the last one instead of the champion, promoted or not."""


SEASONS = {
    "identical": Season(),
    "noise per task": Season(noise=NOISE),
    "harmful drift": Season(-0.1, NOISE),
    "gain of 0.1 a night": Season(0.1, NOISE),
    "the same, continued": Season(0.1, 0.0, continued=True),
}


def nights_table(seasons: int) -> None:
    """Print what a season of nights leads to: the champion is compared with a new candidate each night."""
    print(
        f"\n{NIGHTS} nights, {seasons} seasons or more, mixed: share of seasons with a promotion, promotions by night, "
        "change of success\non the first 100 of 400 tasks (frozen: they decide each night) and on the others, "
        "and episodes a night\nrelative to 100 tasks at once"
    )
    _header("", ("any", *(f"by {n}" for n in (10, 50, 100)), "first", "others", "episodes"), width=9)
    for name, season in SEASONS.items():
        for pool, budget in (("frozen", False), ("frozen", True), ("drawn", True)):
            rng = np.random.default_rng(11)
            count = seasons if season.drift or not budget else 5 * seasons
            runs = [_nights(season, drawn=pool == "drawn", budget=budget, rng=rng) for _ in range(count)]
            promotions = np.array([[sum(night <= n for night in run[0]) for n in (10, 50, 100)] for run in runs])
            figures = [
                float((promotions[:, 2] > 0).mean()),
                *promotions.mean(axis=0),
                *np.mean([run[1:] for run in runs], axis=0),
            ]
            _row(f"{name}, {pool}, {'budget' if budget else 'each 2.5 %'}", figures, width=9)


def _nights(
    season: Season, *, drawn: bool, budget: bool, rng: np.random.Generator
) -> tuple[list[int], float, float, float]:
    """Return the nights with a promotion, the change on the first and on other tasks, and episodes relative to 100."""
    first = logit(difficulties("mixed", (TASKS,), rng))
    champion = newest = first
    spent, nights, cost = 0.0, [], 0
    for night in range(1, NIGHTS + 1):
        start = newest if season.continued else champion
        newest = start + season.drift + season.noise * rng.standard_normal(TASKS)
        asked = rng.permutation(TASKS)[:100] if drawn else rng.permutation(100)
        before, after = (played(chance(logits[asked]), REPETITIONS, rng) for logits in (champion, newest))
        level = next_level(RULE, spent) if budget else LEVEL
        decided = in_rounds(after - before, level)
        cost += decided.tasks
        spent += level
        if decided.promoted:
            champion, spent = newest, 0.0
            nights.append(night)
    change = chance(champion) - chance(first)
    return nights, float(change[:100].mean()), float(change[100:].mean()), cost / NIGHTS / 100


def _resampled(gains: Values, rng: np.random.Generator) -> Values:
    values, counts = np.unique(gains, return_counts=True)
    return rng.multinomial(len(gains), counts / len(gains), size=RESAMPLES) @ values / len(gains)


def _header(title: str, columns: tuple[object, ...], width: int = 8) -> None:
    names = [f"{column:+.2f}" if isinstance(column, float) else str(column) for column in columns]
    print(f"{title:42}" + "".join(f"{name:>{width}}" for name in names), flush=True)


def _row(title: str, figures: list[float], digits: int = 3, width: int = 8) -> None:
    ROWS.append([title, *(round(float(figure), digits) for figure in figures)])
    print(f"{title:42}" + "".join(f"{figure:{width}.{digits}f}" for figure in figures), flush=True)
