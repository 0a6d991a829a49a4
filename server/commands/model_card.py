"""The model card of an exported version: lineage, training, evaluation with intervals. From rows alone.

A card is made to be published: it contains no conversation, no path, no name of a key, and no task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from server.store.tables import (
    BatchRow,
    EpisodeRow,
    EvaluationRow,
    PlayRow,
    PolicyVersionRow,
    PromotionRow,
    RunEpisodeRow,
    RunRow,
)
from server.training.judging.shares import wilson
from upturn import __version__
from upturn.wire import GateEvidence, Interval

SHOWN = ("algorithm", "kind", "schedule", "lora_rank", "kl_coef", "entropy_coef", "max_staleness", "seed")
"""Settings of a run that its section shows, next to the optimizer's."""


def model_card(session: Session, row: PolicyVersionRow, *, base: str, on_hub: bool, adapter: bool) -> str:
    """Return the Markdown of a version's card.

    Args:
        session: reads the rows.
        row: the version.
        base: the base model's name.
        on_hub: whether that is a name on the model hub.
        adapter: whether the directory holds an adapter only.
    """
    name = f"{row.name}@{row.version}"
    lineage = list(_lineage(session, row))
    parts = [
        _front_matter(base if on_hub else None, adapter),
        f"# {name}",
        f"The base model {base}, as served by Upturn {__version__}."
        if row.kind == "base"
        else f"Version {row.version} of `{row.name}`, trained by Upturn {__version__} from {base}.",
        _usage(adapter, base),
        "## How it was trained",
        *_training(session, lineage),
        "## Lineage",
        _table(
            ("version", "weights", "run", "step", "horizon", "created"),
            [
                (
                    f"{one.name}@{one.version}",
                    one.kind,
                    one.run_id or "-",
                    "-" if one.step is None else str(one.step),
                    "-" if one.horizon is None else str(one.horizon),
                    datetime.fromtimestamp(one.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC"),
                )
                for one in lineage
            ],
        ),
        "## Evaluation",
        *_evaluation(session, row),
        "## License",
        f"These weights derive from {base}, whose license applies.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(base: str | None, adapter: bool) -> str:
    lines = ["---", f"library_name: {'peft' if adapter else 'transformers'}", "pipeline_tag: text-generation"]
    if base is not None:
        lines += [f"base_model: {json.dumps(base)}", f"base_model_relation: {'adapter' if adapter else 'finetune'}"]
    return "\n".join([*lines, "tags: [upturn, reinforcement-learning, agent]", "---"])


def _usage(adapter: bool, base: str) -> str:
    kind = "AutoPeftModelForCausalLM" if adapter else "AutoModelForCausalLM"
    serve = f"vllm serve {base} --enable-lora --lora-modules policy=DIR" if adapter else "vllm serve DIR"
    package = "peft" if adapter else "transformers"
    return (
        f"```python\nfrom {package} import {kind}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {kind}.from_pretrained("DIR")\ntokenizer = AutoTokenizer.from_pretrained("DIR")\n```\n\n'
        f"```\n{serve}\n```"
    )


def _lineage(session: Session, row: PolicyVersionRow | None) -> Iterator[PolicyVersionRow]:
    """Yield a version and its ancestors back to the base."""
    while row is not None:
        yield row
        row = None if row.parent is None else session.get_one(PolicyVersionRow, row.parent)


def _training(session: Session, lineage: list[PolicyVersionRow]) -> Iterator[str]:
    """Yield a section for each run that led to the version, oldest first."""
    last: dict[str, PolicyVersionRow] = {}
    for version in lineage:
        if version.run_id is not None and version.step is not None:
            last.setdefault(version.run_id, version)
    if not last:
        yield "It was not trained here."
    for run_id, version in reversed(last.items()):
        run = session.get_one(RunRow, run_id)
        batches = sa.select(BatchRow.id).where(
            BatchRow.run_id == run_id, BatchRow.state == "trained", BatchRow.step <= version.step
        )
        count, played = session.execute(
            sa.select(sa.func.count(), sa.func.count(EpisodeRow.play_id))
            .select_from(RunEpisodeRow)
            .join(EpisodeRow, EpisodeRow.id == RunEpisodeRow.episode_id)
            .where(RunEpisodeRow.batch_id.in_(batches))
        ).one()
        environments = session.scalars(
            sa.select(EpisodeRow.environment)
            .join(RunEpisodeRow, RunEpisodeRow.episode_id == EpisodeRow.id)
            .where(RunEpisodeRow.batch_id.in_(batches), EpisodeRow.environment.is_not(None))
            .distinct()
        ).all()
        where = f" of {', '.join(sorted(filter(None, environments)))}" if environments else ""
        yield (
            f"Run `{run_id}`: {run.config.get('algorithm')}, learner steps 0 to {version.step}, {count} episodes"
            f"{where} ({played} played by the server, {count - played} of live agents)."
        )
        yield f"```json\n{json.dumps(_shown(run.config), indent=2, ensure_ascii=False)}\n```"


def _shown(config: dict[str, Any]) -> dict[str, Any]:
    optimizer = config.get("optimizer") or {}
    return {
        **{name: config[name] for name in SHOWN if config.get(name) is not None},
        "optimizer": {name: value for name, value in optimizer.items() if value is not None},
    }


def _evaluation(session: Session, row: PolicyVersionRow) -> Iterator[str]:
    """Yield the results of the version's evaluations, and the gate's comparisons with the champion of that time."""
    found = _success(session, row.version)
    gates = [
        GateEvidence.model_validate_json(json.dumps(decision.evidence))
        for decision in session.scalars(
            sa.select(PromotionRow).where(PromotionRow.decided_by == "gate").order_by(PromotionRow.id)
        )
        if decision.evidence is not None and decision.evidence.get("candidate") == row.version
    ]
    if not found and not gates:
        yield "This version has not been evaluated."
        return
    if found:
        yield (
            "Success in evaluation episodes, which are never trained on, with a 95 % interval over tasks (Wilson; "
            "repeated episodes of a task count as one):"
        )
        yield _table(("environment", "horizon", "tasks", "episodes", "success", "95 % interval"), found)
    for evidence in gates:
        decision = "promoted" if evidence.promoted else "not promoted"
        test = "" if evidence.test is None else f" (one-sided p = {evidence.test.p_value:.2g})"
        yield (
            f"Compared with version {evidence.champion} on the same tasks and seeds, at horizon {evidence.horizon}: "
            f"{decision}{test}."
        )
        yield _table(
            ("environment", "tasks", f"version {evidence.champion}", f"version {evidence.candidate}", "gain, interval"),
            [
                (
                    environment,
                    str(result.tasks),
                    _share(result.champion.success_rate),
                    _share(result.candidate.success_rate),
                    _range(result.gain),
                )
                for environment, result in {**evidence.environments, **evidence.guards}.items()
            ],
        )


def _success(session: Session, version: int) -> list[tuple[str, ...]]:
    """Return the success of a version by environment and horizon, over all its evaluations."""
    verdict = sa.case((EpisodeRow.success.is_(True), 1.0), else_=0.0)
    by_task = session.execute(
        sa.select(
            EvaluationRow.environment, EvaluationRow.horizon, EpisodeRow.task, sa.func.count(), sa.func.avg(verdict)
        )
        .join(PlayRow, PlayRow.id == EvaluationRow.play_id)
        .join(EpisodeRow, EpisodeRow.play_id == PlayRow.id)
        .where(EvaluationRow.policy_version == version, EpisodeRow.success.is_not(None))
        .group_by(EvaluationRow.environment, EvaluationRow.horizon, EpisodeRow.task)
    ).all()
    grouped: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for environment, horizon, _, count, share in by_task:
        grouped.setdefault((environment, horizon), []).append((count, float(share)))
    lines: list[tuple[str, ...]] = []
    for (environment, horizon), tasks in sorted(grouped.items()):
        mean = wilson(sum(share for _, share in tasks) / len(tasks), len(tasks))
        episodes = sum(count for count, _ in tasks)
        shown = (_share(mean.mean), f"{_share(mean.low)} to {_share(mean.high)}")
        lines.append((environment, str(horizon), str(len(tasks)), str(episodes), *shown))
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _range(gain: Interval | None) -> str:
    return "-" if gain is None else f"{gain.mean:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]"


def _table(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ("---",) * len(header), *lines))
