"""Why the learner must not train on a turn: its tokens were not sampled from the policy's plain distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

from server.engines.protocol import SamplingParams
from server.recording.recorder import Span


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
    if params.temperature == 0:
        return "greedy"
    if params.top_p != 1 or params.top_k != 0:
        return "truncated_sampling"
    if params.json_schema is not None:
        return "constrained_sampling"
    return "changed_sampling" if params.extra else None
