"""A finding of the audit in a sentence: the feature, its figures, and the most telling episodes."""

from __future__ import annotations

from upturn.wire import AuditFinding

WHAT = {
    "no_action": "turns without an action that the environment understands",
    "broken_calls": "turns with a broken tool call",
    "avoided_calls": "turns without a tool call",
    "questions": "turns that ask a question instead of acting",
    "repetition": "repeated text",
    "paid_failures": "failed episodes that earn as much as a typical success",
    "answer_tokens": "tokens per turn",
    "turns": "turns of a solved episode",
}
"""What each feature is, next to a figure. A component has its name."""


def sentence(finding: AuditFinding) -> str:
    """Return a finding as a reason against promotion."""
    share = finding.feature not in ("answer_tokens", "turns")
    before, after = (f"{v:.1%}" if share else f"{v:.4g}" for v in (finding.champion, finding.candidate))
    rise = f"by {100 * finding.rise:.1f} percentage points" if share else f"by {finding.rise:.0%}"
    tolerated = f"{100 * finding.tolerated:.4g} points" if share else f"{finding.tolerated:.0%}"
    _, component, name = finding.feature.partition("component:")
    what = f"share of the reward component {name}" if component else WHAT[finding.feature]
    reward = "" if finding.reward_rise is None else f", the reward {_where(finding)} by {finding.reward_rise:+.3f}"
    return (
        f"{finding.environment}: possible reward hack: {what} rose {rise} (from {before} to {after}{reward}; "
        f"{tolerated} tolerated, p = {finding.p_value:.2g}); see {', '.join(finding.episodes)}"
    )


def _where(finding: AuditFinding) -> str:
    """Return how the reward was compared."""
    always = finding.feature in ("answer_tokens", "turns") or finding.feature.startswith("component:")
    return "at the same verdict" if always else "as a whole"
