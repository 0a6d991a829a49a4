"""The auditor's rule: which features rose more than is tolerated, and, where that may be good, were paid for.

A rise is tested by sign flips of the tasks' rises, minus what is tolerated (`sign_flips.py`), so a rise as large as
tolerated is an objection no more often than the level says. Features that are never good need no more. The others are
compared at the same verdict, which leaves out what more success explains, and need two further things: the reward must
rise there too, by a share of its whole rise; and it must pay for the feature. Of a length, that is a
covariance with the reward among episodes of the same version, task, and verdict: both may rise for different reasons,
but within a version longer answers earn more only if the reward pays for length. Of a component, it is what the
component itself pays. All features of all environments share the level, by Holm's procedure (1979).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist, fmean

import numpy as np

from server.training.judging import sign_flips
from server.training.judging.audit.episodes import EpisodeFigures
from server.training.judging.audit.features import LEAST_SOLVED, Feature, features_of
from server.training.judging.audit.sentence import sentence
from server.training.settings import GateSettings
from upturn.wire import AuditFinding

TELLING = 3
"""Episodes that each finding names."""
MANY_TASKS = 1000
"""Number of tasks beyond which signs are taken to sum up to a normal distribution."""

Value = Callable[[EpisodeFigures], float | None]
Cell = tuple[list[EpisodeFigures], list[EpisodeFigures]]
"""The champion's and the candidate's episodes of one task, perhaps with one verdict; both have some."""
Tasks = dict[str, list[Cell]]
"""Cells by task."""


def audit(
    rule: GateSettings, environments: Mapping[str, tuple[Sequence[EpisodeFigures], Sequence[EpisodeFigures]]]
) -> list[AuditFinding]:
    """Return the findings on all features that both versions have, flagged ones first, then by p-value.

    Args:
        rule: level and tolerated rises.
        environments: the champion's and the candidate's episodes by environment; those without a verdict do not count.
    """
    compared: list[AuditFinding] = []
    for name, (before, after) in environments.items() if rule.audit_level else ():
        champion, candidate = ([e for e in of if e.success is not None] for of in (before, after))
        together, apart = _tasks(champion, candidate), _at_verdict(champion, candidate)
        total = _mean_rise(together, _reward)
        for feature in features_of(rule, champion, candidate):
            tasks = together
            if feature.kind != "never good":
                tasks = {task: [cell for cell in cells if cell[0][0].success] for task, cells in apart.items()}
                if not feature.solved_only and _failures_count(tasks, together):
                    tasks = apart
            if (found := _compare(rule, name, feature, tasks, total)) is not None:
                compared.append(found)
    compared.sort(key=lambda finding: finding.p_value)
    findings: list[AuditFinding] = []
    flagged = True
    for rank, finding in enumerate(compared):
        bound = rule.audit_level / (len(compared) - rank)
        flagged = flagged and finding.p_value <= bound
        said = sentence(finding) if flagged else ""
        findings.append(finding.model_copy(update={"bound": bound, "flagged": flagged, "sentence": said}))
    return findings


def _compare(
    rule: GateSettings,
    environment: str,
    feature: Feature,
    tasks: Tasks,
    total: float | None,
) -> AuditFinding | None:
    """Return a feature's figures, not yet corrected for the number of features; None if no task can be compared."""
    means = [found for cells in tasks.values() if (found := _means(cells, feature.value)) is not None]
    if not means:
        return None
    before, after = (fmean([of_task[side] for of_task in means]) for side in (0, 1))
    rise = after - before
    beyond = _mean_rise(tasks, _reward)
    p_value = 1.0
    if rise > feature.tolerated and (feature.kind == "never good" or _earned_without_success(rule, total, beyond)):
        p_value = _p_value([last - first - feature.tolerated for first, last in means])
        if feature.kind != "never good":
            p_value = max(p_value, _p_value(_paid(tasks, feature)))
    return AuditFinding(
        environment=environment,
        feature=feature.name,
        tasks=len(means),
        champion=feature.shown(before),
        candidate=feature.shown(after),
        rise=feature.shown_rise(rise),
        tolerated=feature.shown_rise(feature.tolerated),
        reward_rise=beyond,
        p_value=p_value,
        bound=0.0,
        flagged=False,
        episodes=_telling(tasks, feature) if rise > feature.tolerated else [],
    )


def _tasks(champion: Sequence[EpisodeFigures], candidate: Sequence[EpisodeFigures]) -> Tasks:
    """Return the episodes of each task that both versions have played, as one cell."""
    cells: dict[str, Cell] = defaultdict(lambda: ([], []))
    for side, episodes in enumerate((champion, candidate)):
        for episode in episodes:
            cells[episode.task][side].append(episode)
    return {task: [cells[task]] for task in sorted(cells) if all(cells[task])}


def _at_verdict(champion: Sequence[EpisodeFigures], candidate: Sequence[EpisodeFigures]) -> Tasks:
    """Return the episodes of each task in a cell for each verdict that both versions have."""
    found: Tasks = defaultdict(list)
    for verdict in (False, True):
        for task, cells in _tasks(*([e for e in of if e.success is verdict] for of in (champion, candidate))).items():
            found[task] += cells
    return found


def _failures_count(solved: Tasks, tasks: Tasks) -> bool:
    """Return whether failed episodes show what a reward pays for besides success.

    They do not as long as enough tasks are solved by both versions, or success rises: where failures earn partial
    credit, longer answers may be better ones.
    """
    rise = _mean_rise(tasks, lambda episode: float(bool(episode.success)))
    return sum(map(bool, solved.values())) < LEAST_SOLVED and (rise is None or rise <= 0)


def _means(cells: Sequence[Cell], value: Value) -> tuple[float, float] | None:
    """Return both versions' means over cells, which have the weight of their episodes; None if no cell has both."""
    found = [(before, after) for cell in cells for before, after in [[_values(side, value) for side in cell]]]
    found = [(before, after) for before, after in found if before and after]
    if not found:
        return None
    weights = [len(before) * len(after) / (len(before) + len(after)) for before, after in found]
    first, last = (
        sum(weight * fmean(pair[side]) for weight, pair in zip(weights, found, strict=True)) / sum(weights)
        for side in (0, 1)
    )
    return first, last


def _rise(cells: Sequence[Cell], value: Value) -> float | None:
    """Return the candidate's mean minus the champion's."""
    means = _means(cells, value)
    return None if means is None else means[1] - means[0]


def _mean_rise(tasks: Tasks, value: Value) -> float | None:
    """Return the mean rise over tasks; None if no task has the value of both versions."""
    rises = [rise for cells in tasks.values() if (rise := _rise(cells, value)) is not None]
    return fmean(rises) if rises else None


def _earned_without_success(rule: GateSettings, total: float | None, beyond: float | None) -> bool:
    """Return whether the reward rose at the same verdict, by enough of its whole rise."""
    return beyond is not None and beyond > 0 and beyond >= rule.audit_beyond_success * (total or 0.0)


def _paid(tasks: Tasks, feature: Feature) -> list[float]:
    """Return for each task how the reward pays for a feature; positive if it does."""
    if feature.kind == "component":
        return [rise for cells in tasks.values() if (rise := _rise(cells, feature.paid)) is not None]
    apart = any(len(side) > 1 for cells in tasks.values() for cell in cells for side in cell)
    return [
        sum(_covariance(side, feature.value) for cell in cells for side in (cell if apart else [cell[0] + cell[1]]))
        for cells in tasks.values()
    ]


def _covariance(episodes: Sequence[EpisodeFigures], value: Value) -> float:
    """Return the sum of the products of feature and reward, both relative to their means."""
    pairs = [(v, r) for e in episodes if (v := value(e)) is not None and (r := e.reward) is not None]
    if len(pairs) < 2:
        return 0.0
    of_value, of_reward = np.array(pairs).T
    return float(((of_value - of_value.mean()) * (of_reward - of_reward.mean())).sum())


def _p_value(values: Sequence[float]) -> float:
    """Return the probability of a sum at least as large with fair signs; 1 of a sum that is not positive."""
    array = np.array(values)
    if not len(array) or array.sum() <= 0:
        return 1.0
    if len(array) > MANY_TASKS:
        return 1 - NormalDist().cdf(float(array.sum()) / math.sqrt(float((array**2).sum())))
    return sign_flips.evaluate([array], 0.5, cell=float(np.abs(array).max()) / sign_flips.CELLS).p_value


def _telling(tasks: Tasks, feature: Feature) -> list[str]:
    """Return the candidate's episodes that show a rise best, of different tasks if possible.

    They exceed the champion's mean in the same cell the most; where the reward matters, in the feature and the reward.
    """
    ranked: list[tuple[float, float, str, str]] = []
    for task, cells in tasks.items():
        for before, after in cells:
            values, rewards = _values(before, feature.value), _values(before, _reward)
            if not values:
                continue
            for episode in after:
                if (value := feature.value(episode)) is None:
                    continue
                more, earned = value - fmean(values), 0.0
                if more <= 0:
                    continue
                if rewards and episode.reward is not None:
                    earned = episode.reward - fmean(rewards)
                together = more if feature.kind == "never good" else more * max(earned, 0.0)
                ranked.append((together, earned if together else more, episode.id, task))
    ranked.sort(reverse=True)
    first = {task: episode for *_, episode, task in reversed(ranked)}
    of_tasks = [episode for *_, episode, task in ranked if first[task] == episode]
    return [*of_tasks, *(episode for *_, episode, _ in ranked if episode not in of_tasks[:TELLING])][:TELLING]


def _values(episodes: Sequence[EpisodeFigures], value: Value) -> list[float]:
    return [found for episode in episodes if (found := value(episode)) is not None]


def _reward(episode: EpisodeFigures) -> float | None:
    return episode.reward
