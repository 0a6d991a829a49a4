"""Why a turn or an episode is not trained on, and why an episode ended, in sentences that say what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from upturn.wire import EpisodeView

REASONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "ambiguous_episode": (
            "The conversation may belong to another episode, and so may the reward.",
            "Let the agent send an episode's id, or one of the ids that answers carry (docs/api.md).",
        ),
        "disconnected": ("The client left before the answer was complete.", "Look at the client's timeout."),
        "aborted": ("The engine broke the answer off.", "The server's log says why."),
        "empty": ("The answer has no tokens.", ""),
        "greedy": (
            "It was sampled at temperature 0, so its probabilities are not the policy's.",
            "Sample at a temperature above 0.",
        ),
        "truncated_sampling": ("It was sampled with top_p or top_k.", "Leave both out of the request."),
        "constrained_sampling": (
            "A JSON schema or a forced tool call limited what could be sampled.",
            "Leave out response_format, or let tool_choice be auto.",
        ),
        "changed_sampling": (
            "Penalties or the like changed the probabilities.",
            "Leave penalties, logit_bias and min_p out of the request.",
        ),
        "logprobs_missing": (
            "The engine returned no logprob for some token.",
            "The doctor checks this: python -m server doctor.",
        ),
        "logprobs_not_finite": (
            "A logprob of the engine is not a finite number.",
            "The doctor checks this: python -m server doctor.",
        ),
        "refused_version": (
            "The version that sampled it was refused when it was checked, so its tokens may be of any weights.",
            "",
        ),
        "deleted": ("Its caller deleted the response.", ""),
        "no_train": ("Its caller keeps the episode from training.", "Leave out x-no-train, or open it as trainable."),
    }
)
"""By the recorded reason: what it means, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is not trained on."""

    name: str
    """As recorded."""
    meaning: str
    advice: str = ""


def reason(name: str | None) -> Reason:
    """Return a recorded reason in words. Records from elsewhere may have others."""
    meaning, advice = REASONS.get(name or "", ("The record names no further reason.", ""))
    return Reason(name or "unknown", meaning, advice)


def whole_episode(view: EpisodeView) -> list[Reason]:
    """Return why no turn of an episode is trained on, apart from the turns' own reasons; empty if some may be."""
    found = []
    if not view.trainable:
        found.append(Reason("trainable: false", "The episode was opened, or ended, so that it is never trained on."))
    if view.status == "open":
        found.append(
            Reason("open", "Only episodes that have ended are trained on.", "Close it when the agent is done.")
        )
    if view.status == "error":
        found.append(Reason("error", "The environment or the engine failed, so the reward means nothing."))
    if view.reward is None and view.status != "open":
        found.append(
            Reason("no reward", "Reinforcement learning needs a reward.", "Give it a thumb, or send a reward.")
        )
    if not view.turns:
        found.append(Reason("no turns", "There is nothing in it that could be trained on."))
    return found


ENDS: Mapping[str, str] = MappingProxyType(
    {
        "open": "It has not ended.",
        "terminated": "The environment ended it.",
        "truncated": "It was cut off by its horizon, or by the environment's own limit.",
        "closed": "Its caller closed it.",
        "error": "It failed.",
    }
)


def why_it_ended(view: EpisodeView) -> str:
    """Return in words why an episode ended."""
    sentence = ENDS.get(view.status, view.status)
    if view.status == "truncated" and view.environment is not None:
        at_horizon = max(len(view.steps), len(view.turns)) >= view.horizon
        sentence = (
            f"It was cut off by its horizon of {view.horizon} turns."
            if at_horizon
            else "It was cut off by the environment's own limit."
        )
    return " ".join([sentence, *([f"{view.error_class}."] if view.error_class else [])])
