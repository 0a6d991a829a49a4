"""Transcripts: turns with their steps, reasons in words, tokens with what is known of them, and branches."""

from __future__ import annotations

import math
from typing import Any, get_args

from server.dashboard.transcripts.branches import tree_of
from server.dashboard.transcripts.moments import moments_of
from server.dashboard.transcripts.reasons import REASONS, reason, whole_episode, why_it_ended
from server.dashboard.transcripts.said import said
from server.dashboard.transcripts.tokens import COLORS, Color, legend, pieces_of, surprise, versions_of
from server.recording.conversation import DELETED
from server.recording.recorder import REFUSED_VERSION
from server.recording.trainable import EXPLAINED, NO_TRAIN
from upturn.wire import EpisodeView, RewardView, StepView, TurnTokens, TurnView, VersionSpan


def turn(index: int, answer: dict[str, Any] | str = "a", heard: str = "q", **more: Any) -> TurnView:
    fields: dict[str, Any] = {
        "id": f"turn_{index}",
        "index": index,
        "messages": [{"role": "user", "content": heard}],
        "answer": {"role": "assistant", "content": answer} if isinstance(answer, str) else answer,
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "finish_reason": "stop",
        "policy_version": 3,
        "trainable": True,
        "untrainable_reason": None,
        "token_ids": [],
        "loss_mask": [],
        "logprobs": [],
        "created_at": 0.0,
        "extends": index - 1 if index else None,
    }
    return TurnView(**fields | more)


def step(index: int, action: str = "a", observation: str = "o", **more: Any) -> StepView:
    fields: dict[str, Any] = {"reward": 0.0, "terminated": False, "truncated": False, "info": {}}
    return StepView(index=index, action=action, observation=observation, **fields | more)


def view(turns: list[TurnView], steps: list[StepView] | None = None, **more: Any) -> EpisodeView:
    fields: dict[str, Any] = {
        "id": "ep_1", "status": "terminated", "error_class": None, "reason": None, "environment": "odd", "task": "t",
        "seed": 0, "horizon": 10, "group": None, "play_id": None, "trainable": True, "reward": 1.0, "metadata": {},
        "opened_at": 0.0, "closed_at": 1.0, "rewards": [],
    }  # fmt: skip
    return EpisodeView(turns=turns, steps=steps or [], **fields | more)


def test_each_step_is_shown_with_the_turn_whose_answer_it_was() -> None:
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "go", "arguments": "{}"}}],
    }
    shown = moments_of(
        view(
            [turn(0, "look"), turn(1, "never acted", "seen"), turn(2, call), turn(3, "stop")],
            [step(0, "look", "seen"), step(1, "go", "moved"), step(2, "stop", "The end.")],
        )
    )
    assert [moment.step and moment.step.index for moment in shown] == [0, None, 1, 2]
    assert [moment.observation for moment in shown] == ["", "", "moved", "The end."], "a repeated text is shown once"


def test_steps_without_turns_follow_the_turns() -> None:
    shown = moments_of(view([turn(0, "x")], [step(0, "x"), step(1, "y"), step(2, "z", info={"valid": False})]))
    assert [(one.turn is None, one.step and one.step.action, one.valid) for one in shown] == [
        (False, "x", True),
        (True, "y", True),
        (True, "z", False),
    ]


def test_rewards_of_a_turn_and_its_versions_stand_beside_it() -> None:
    spans = [VersionSpan(version=number, first=0, tokens=1) for number in (3, 4, 3)]
    given = RewardView(id="rw", value=-1.0, source="user", turn=1, created_at=0.0)
    first, second = moments_of(view([turn(0), turn(1, policy_versions=spans)], rewards=[given]))
    assert (first.rewards, first.versions) == ((), (3,))
    assert (second.rewards, second.versions) == ((given,), (3, 4))


def test_a_message_of_any_form_is_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert said({"role": "user", "content": parts}).text.startswith("one\n{")
    odd = said({"role": 7, "content": {"a": [1]}, "tool_calls": ["x", {"function": {"arguments": "{broken"}}, {}]})
    assert (odd.role, odd.style, odd.text) == ("?", "other", '{\n  "a": [\n    1\n  ]\n}')
    assert [(call.name, call.arguments) for call in odd.calls] == [("", "{broken"), ("", "null")]
    spoken = said({"role": "assistant", "content": None, "reasoning_content": "Hm."})
    assert (spoken.text, spoken.thoughts) == ("", "Hm.")


def test_every_reason_that_the_server_records_is_explained() -> None:
    known = {
        *EXPLAINED,
        NO_TRAIN,
        DELETED,
        REFUSED_VERSION,
        "ambiguous_episode",
        "logprobs_missing",
        "logprobs_not_finite",
    }
    assert set(REASONS) == known
    assert reason("from elsewhere").name == "from elsewhere" and reason(None).meaning


def test_an_episode_says_why_it_ended_and_why_it_is_not_trained_on() -> None:
    assert why_it_ended(view([turn(0)])) == "The environment ended it."
    assert "its horizon of 10 turns" in why_it_ended(view([], [step(n) for n in range(10)], status="truncated"))
    assert "own limit" in why_it_ended(view([], [step(0)], status="truncated"))
    assert why_it_ended(view([], status="error", error_class="Broken")) == "It failed. Broken."
    assert whole_episode(view([turn(0)])) == []
    assert [one.name for one in whole_episode(view([], status="open", trainable=False, reward=None))] == [
        "trainable: false",
        "open",
        "no turns",
    ]
    assert [one.name for one in whole_episode(view([turn(0)], reward=None))] == ["no reward"]


TOKENS = TurnTokens(
    first=5,
    ids=[1, 2, 3, 4, 5],
    pieces=["Hi", " you", "Yes", "", "<b>"],
    sampled=[False, False, True, True, True],
    trained=[False, False, True, False, True],
    logprobs=[None, None, -0.001, None, math.log(0.2)],
    versions=[None, None, 3, None, 4],
)


def test_prompt_tokens_are_one_piece_and_each_sampled_token_says_what_is_known_of_it() -> None:
    prompt, yes, masked, last = pieces_of(turn(0, tokens=TOKENS), "logprob", 0.75, [3, 4])
    assert (prompt.kind, prompt.text, prompt.tokens) == ("prompt", "Hi you", 2)
    assert (yes.kind, yes.shade) == ("trained", "lp0") and "version 3" in yes.says and "advantage +0.750" in yes.says
    assert (masked.kind, masked.text, masked.shade) == ("masked", "·", "") and "demonstrated" in masked.says
    assert (last.text, last.shade) == ("<b>", "lp5") and "probability 20.0%" in last.says and "place 9" in last.says
    assert pieces_of(turn(0), "logprob", None, []) == []


def test_masked_tokens_have_no_advantage_and_versions_have_colors_of_their_own() -> None:
    shades = [
        [one.shade for one in pieces_of(turn(0, tokens=TOKENS), color, -3.0, [3, 4])] for color in get_args(Color)
    ]
    assert shades == [["", "lp0", "", "lp5"], ["", "ad4n", "", "ad4n"], ["", "ve0", "", "ve1"]]
    assert [color for color, _ in COLORS] == list(get_args(Color))


def test_the_legend_names_every_shade_that_tokens_can_have() -> None:
    shades = {surprise(-number / 50) for number in range(500)}
    assert {entry.shade for entry in legend("logprob", [])} == shades
    assert {entry.shade for entry in legend("version", [7, 9])} == {"ve0", "ve1"}
    assert len({entry.shade for entry in legend("advantage", [])}) == 9
    assert surprise(None) == "" and surprise(0.001) == "lp0"


def test_all_versions_of_an_episode_are_listed_once() -> None:
    spans = [VersionSpan(version=5, first=0, tokens=1)]
    assert versions_of(view([turn(0), turn(1, policy_versions=spans), turn(2, policy_version=None)])) == [3, 5]


def test_a_chain_of_turns_has_no_tree_and_a_fork_has_a_lane_for_each_branch() -> None:
    assert tree_of(view([turn(0), turn(1), turn(2)])) is None and tree_of(view([])) is None
    forked = tree_of(view([turn(0), turn(1), turn(2, extends=0), turn(3, extends=2), turn(4, extends=None)]))
    assert forked is not None
    lanes = sorted({node.x for node in forked.nodes})
    assert [lanes.index(node.x) for node in forked.nodes] == [0, 0, 1, 1, 2]
    assert [bool(node.path) for node in forked.nodes] == [False, True, True, True, False]
    assert [node.branches_off for node in forked.nodes] == [False, False, True, False, True]


def test_a_wide_tree_stays_within_its_drawing() -> None:
    tree = tree_of(view([turn(0), *(turn(number, extends=0) for number in range(1, 40))]))
    assert tree is not None and all(0 < node.x < tree.width and 0 < node.y < tree.height for node in tree.nodes)
