"""What drawings are made from: the recorded beginning and the recorded steps of an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from upturn.wire import StepView


@dataclass(frozen=True, slots=True)
class Taken:
    """A recorded step."""

    action: str
    """The whole answer, in which the environment found the action."""
    observation: str
    info: Mapping[str, Any] = field(default_factory=dict)
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the record has of an episode of an environment."""

    environment: str
    task: str
    first: str
    """The user's first message: the task and the first observation. Empty if no turn recorded it."""
    steps: Sequence[Taken]


def taken(step: StepView) -> Taken:
    """Return a step of an episode's view."""
    info = dict(step.info)
    valid = info.pop("valid", True) is not False
    return Taken(step.action, step.observation, info, valid)
