"""An episode as moments: a turn with its messages, the step that its answer became, and the state after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.dashboard.drawings.draw import states_of
from server.dashboard.drawings.parts import State
from server.dashboard.transcripts.reasons import Reason, reason
from server.dashboard.transcripts.said import Said, said
from upturn.wire import EpisodeView, RewardView, StepView, TurnView


@dataclass(frozen=True, slots=True)
class Moment:
    """A turn and its step. An episode that was played without the policy can have steps without turns."""

    number: int
    """From 1, in the order of the page."""
    turn: TurnView | None
    heard: tuple[Said, ...]
    """The request's new messages."""
    answer: Said | None
    untrainable: Reason | None
    step: StepView | None
    valid: bool
    """The environment found an action in the answer."""
    observation: str
    """The step's observation, where no later message of the conversation shows it."""
    state: State | None
    """The environment's state after the step."""
    before: State | None
    """The state before the first step; of the first moment only."""
    rewards: tuple[RewardView, ...]
    """Rewards given for the turn."""
    versions: tuple[int, ...]
    """Versions that sampled the answer, in order."""


def moments_of(view: EpisodeView) -> list[Moment]:
    """Return the moments of an episode. May read files the first time, for drawings."""
    states = states_of(view)
    turns: Sequence[TurnView | None] = view.turns
    steps: Sequence[StepView | None] = _of_turns(view)
    if len(view.steps) > (used := sum(step is not None for step in steps)):
        turns = [*turns, *[None] * (len(view.steps) - used)]
        steps = [*steps, *view.steps[used:]]
    made, shown = [], _messages(view)
    for number, (turn, step) in enumerate(zip(turns, steps, strict=True), 1):
        at = None if step is None else step.index + 1
        made.append(
            Moment(
                number=number,
                turn=turn,
                heard=() if turn is None else tuple(said(message) for message in turn.messages),
                answer=None if turn is None else said(turn.answer),
                untrainable=None if turn is None or turn.trainable else reason(turn.untrainable_reason),
                step=step,
                valid=step is None or step.info.get("valid") is not False,
                observation="" if step is None or step.observation in shown else step.observation,
                state=states[at] if at is not None and at < len(states) else None,
                before=states[0] if number == 1 and states and states[0].parts else None,
                rewards=() if turn is None else tuple(one for one in view.rewards if one.turn == turn.index),
                versions=() if turn is None else _versions(turn),
            )
        )
    return made


def _of_turns(view: EpisodeView) -> list[StepView | None]:
    """Return for each turn the step that its answer became.

    The record links no step to a turn. Steps are in the order of the turns, and an answer's text is the step's action.
    A tool call is another text as an action, so it takes the next step, as long as there is one for it.
    """
    waiting = list(view.steps)
    found: list[StepView | None] = []
    for turn in view.turns:
        is_next = bool(waiting) and (bool(turn.answer.get("tool_calls")) or _is(turn, waiting[0]))
        found.append(waiting.pop(0) if is_next else None)
    return found


def _is(turn: TurnView, step: StepView) -> bool:
    return said(turn.answer).text.strip() == step.action.strip()


def _messages(view: EpisodeView) -> set[str]:
    """Return the texts of all messages that answers followed."""
    return {said(message).text for turn in view.turns for message in turn.messages}


def _versions(turn: TurnView) -> tuple[int, ...]:
    found = [span.version for span in turn.policy_versions]
    if not found and turn.policy_version is not None:
        found = [turn.policy_version]
    return tuple(dict.fromkeys(found))
