"""Why the learner must not train on a turn: its tokens were not sampled from the policy's plain distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from server.engines.protocol import SamplingParams
from server.recording.recorder import Span

NO_TRAIN = "no_train"
"""The reason in answers of an episode that its caller keeps from training; its turns themselves are trainable."""
EXPLAINED: Mapping[str, str] = MappingProxyType(
    {
        "greedy": "temperature 0",
        "truncated_sampling": "top_p or top_k",
        "constrained_sampling": "a JSON schema or a forced tool call",
        "changed_sampling": "penalties and the like",
        "disconnected": "the client left",
        "aborted": "the engine broke off",
        "empty": "an answer without tokens",
    }
)
"""Reasons in a few words, where the name does not say it."""


def reason_in_request(params: SamplingParams) -> str | None:
    """Return why an answer that is sampled this way is untrainable, or None; known before it is sampled."""
    if params.temperature == 0:
        return "greedy"
    if params.top_p != 1 or params.top_k != 0:
        return "truncated_sampling"
    if params.json_schema is not None:
        return "constrained_sampling"
    return "changed_sampling" if params.extra else None


def untrainable_reason(
    params: SamplingParams, spans: Sequence[Span], *, finish_reason: str, abandoned: bool, ambiguous: bool = False
) -> str | None:
    """Return the first reason that applies, or None for a trainable turn.

    `docs/metrics.md` explains the reasons; `upturn_turns_total` counts turns by them.

    Args:
        params: how the answer was sampled.
        spans: its sampled tokens.
        finish_reason: why sampling stopped; `abort` marks an answer cut short by the engine.
        abandoned: every client disconnected before the end.
        ambiguous: its conversation may belong to another episode, and so may the reward.
    """
    if ambiguous:
        return "ambiguous_episode"
    if abandoned:
        return "disconnected"
    if finish_reason == "abort":
        return "aborted"
    if not spans:
        return "empty"
    if any(len(span.token_ids) != len(span.logprobs or []) for span in spans):
        return "logprobs_missing"
    if not all(math.isfinite(x) for span in spans for x in span.logprobs or []):
        return "logprobs_not_finite"
    return reason_in_request(params)


def summary(recent: int, reasons: Mapping[str, int]) -> str:
    """Return in one sentence how many of the last turns cannot be trained on, and why.

    Args:
        recent: number of turns looked at.
        reasons: untrainable turns by reason.
    """
    untrainable = sum(reasons.values())
    if not untrainable:
        return f"all of the last {recent} turns are trainable" if recent else "no turn yet"
    listed = sorted(reasons.items(), key=lambda item: -item[1])
    why = ", ".join(
        f"{count} {reason}" + (f" ({EXPLAINED[reason]})" if reason in EXPLAINED else "") for reason, count in listed
    )
    return f"{untrainable / recent:.0%} of the last {recent} turns are untrainable because: {why}"
