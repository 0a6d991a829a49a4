"""The check of a loaded version: the engine's logprobs of a probe against the learner's own.

Nothing else catches a silently mixed load, so a version serves only after it has passed.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.engines.protocol import Engine
from server.errors import BadRequest, Conflict
from upturn.wire import Probe

MIN_TOKENS = 6
"""Probe tokens that a check must compare; chosen by this project."""


@dataclass(frozen=True, slots=True)
class Check:
    """Absolute difference between the engine's and the learner's logprobs of the probe, in nats."""

    mean: float
    max: float


async def check_version(engine: Engine, version: int, probe: Probe) -> Check:
    """Compare a loaded version's logprobs with the learner's.

    Raises:
        BadRequest: the probe does not have one logprob per token after the first.
        Conflict: the logprobs differ by more than the engine's numerics explain, or too few could be compared.
    """
    if len(probe.logprobs) != len(probe.token_ids) - 1:
        raise BadRequest("a probe of T tokens needs T-1 logprobs", param="probe", code="bad_probe")
    served = await engine.spot_check(version, probe.token_ids)
    gaps = [abs(a - b) for a, b in zip(served, probe.logprobs, strict=True) if a is not None]
    if len(gaps) < min(MIN_TOKENS, len(served)):
        raise Conflict(
            f"only {len(gaps)} of the probe's tokens are among the engine's most likely ones: the loaded weights are "
            "not the trained ones",
            code="check_failed",
        )
    check = Check(sum(gaps) / len(gaps), max(gaps))
    if not check.mean <= engine.check_tolerance:
        raise Conflict(
            f"the engine's logprobs differ from the learner's by {check.mean:.4f} nats on average (numerics explain "
            f"at most {engine.check_tolerance}): the loaded weights are not the trained ones",
            code="check_failed",
        )
    return check
