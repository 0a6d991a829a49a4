"""A reward function: scores every live episode after its end. `feedback.toml` names it."""

from upturn.wire import EpisodeView

LONGEST = 400
"""Characters of an answer above which it is considered too long."""


def concise(episode: EpisodeView) -> dict[int, float] | None:
    """Return a reward for each turn with text: 1 for a short answer, less the longer it is; None for no opinion."""
    answers = {turn.index: turn.answer.get("content") or "" for turn in episode.turns}
    scores = {index: min(1.0, LONGEST / len(text)) for index, text in answers.items() if text}
    return scores or None
