"""The tokens of a turn with what is known of each: probability, version, whether it trains, and its advantage.

Pages set colors by class names alone, since their policy allows no style in a page. So each value has one of a few
shades. A token's mismatch between engine and learner is not recorded, only each learner step's mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from upturn.wire import EpisodeView, TurnTokens, TurnView

Color = Literal["logprob", "advantage", "version"]
COLORS: tuple[tuple[Color, str], ...] = (
    ("logprob", "Probability"),
    ("advantage", "Advantage"),
    ("version", "Version"),
)
"""What tokens can be colored by, with its name."""
SURE = (0.01, 0.1, 0.3, 0.7, 1.2, 2.0, 3.0, 5.0)
"""Nats of surprise at which the shades 1 to 8 begin: 99, 90, 74, 50, 30, 14, 5 and 0.7 % probability."""
ADVANTAGES = (0.1, 0.5, 1.0, 2.0)
"""Sizes of an advantage at which its shades 1 to 4 begin, above and below 0."""
VERSION_SHADES = 6
PROMPT_CHARS = 4000
"""Longest text of a prompt's tokens that is shown, chosen by this project; its middle is left out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A sampled token, or all of a prompt's tokens between two sampled ones."""

    text: str
    kind: Literal["prompt", "masked", "trained"]
    """`masked` tokens are sampled and not trained."""
    shade: str = ""
    """Name of its color; empty without one."""
    says: str = ""
    """All that is known of it, in a line."""
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Legend:
    """What a shade means."""

    shade: str
    meaning: str


def pieces_of(turn: TurnView, color: Color, advantage: float | None, versions: Sequence[int]) -> list[Piece]:
    """Return a turn's tokens as pieces; empty if the turn came without tokens.

    Args:
        turn: the turn.
        color: what they are colored by.
        advantage: of the episode in the chosen learner step; None if no step trained on it.
        versions: all versions of the page, in the order of their colors.
    """
    if (tokens := turn.tokens) is None:
        return []
    made: list[Piece] = []
    prompt: list[str] = []
    for at in range(len(tokens.ids)):
        if not tokens.sampled[at]:
            prompt.append(tokens.pieces[at])
            continue
        if prompt:
            made.append(_prompt(prompt))
            prompt = []
        made.append(_sampled(tokens, at, color, advantage, versions))
    if prompt:
        made.append(_prompt(prompt))
    return made


def _prompt(pieces: list[str]) -> Piece:
    text = "".join(pieces)
    if len(text) > PROMPT_CHARS:
        text = f"{text[: PROMPT_CHARS // 2]}\n…\n{text[-PROMPT_CHARS // 2 :]}"
    return Piece(text, "prompt", says=f"{len(pieces):,} tokens of the prompt, not sampled", tokens=len(pieces))


def _sampled(tokens: TurnTokens, at: int, color: Color, advantage: float | None, versions: Sequence[int]) -> Piece:
    logprob, version, trained = tokens.logprobs[at], tokens.versions[at], tokens.trained[at]
    says = [f"token {tokens.ids[at]}", f"place {tokens.first + at:,}"]
    if logprob is not None:
        says.append(f"probability {math.exp(min(0.0, logprob)):.1%} (logprob {logprob:.3f})".replace("-", "−"))
    says.append("demonstrated" if version is None else f"version {version}")
    says.append("may be trained" if trained else "masked: not trained")
    if advantage is not None and trained:
        says.append(f"advantage {advantage:+.3f}".replace("-", "−"))
    shade = {
        "logprob": surprise(logprob),
        "advantage": gain(advantage if trained else None),
        "version": of_version(version, versions),
    }[color]
    text = tokens.pieces[at]
    return Piece(text or "·", "trained" if trained else "masked", shade, ", ".join(says))


def surprise(logprob: float | None) -> str:
    """Return the shade of a logprob: the less probable, the stronger."""
    if logprob is None or math.isnan(logprob):
        return ""
    return f"lp{sum(-logprob >= bound for bound in SURE)}"


def gain(advantage: float | None) -> str:
    """Return the shade of an advantage."""
    if advantage is None or math.isnan(advantage):
        return ""
    size = sum(abs(advantage) >= bound for bound in ADVANTAGES)
    return "ad0" if not size else f"ad{size}" if advantage > 0 else f"ad{size}n"


def of_version(version: int | None, versions: Sequence[int]) -> str:
    """Return the shade of a version; versions beyond the number of shades share them."""
    if version is None or version not in versions:
        return ""
    return f"ve{versions.index(version) % VERSION_SHADES}"


def legend(color: Color, versions: Sequence[int]) -> list[Legend]:
    """Return what the shades of a color mean."""
    if color == "version":
        return [Legend(of_version(version, versions), f"version {version}") for version in versions]
    if color == "advantage":
        below = [Legend(f"ad{n}n", f"−{ADVANTAGES[n - 1]:g} or less") for n in range(len(ADVANTAGES), 0, -1)]
        above = [Legend(f"ad{n}", f"{bound:g} or more") for n, bound in enumerate(ADVANTAGES, 1)]
        return [*below, Legend("ad0", "about 0"), *above]
    bounds = [math.exp(-bound) for bound in SURE]
    spelled = [f"{bound:.0%}" if bound >= 0.01 else f"{bound:.1%}" for bound in bounds]
    return [
        Legend("lp0", f"over {spelled[0]}"),
        *(Legend(f"lp{n}", f"{one} or less") for n, one in enumerate(spelled, 1)),
    ]


def versions_of(view: EpisodeView) -> list[int]:
    """Return all versions that sampled an episode's answers, in ascending order."""
    spans = {span.version for turn in view.turns for span in turn.policy_versions}
    return sorted(spans | {turn.policy_version for turn in view.turns if turn.policy_version is not None})
