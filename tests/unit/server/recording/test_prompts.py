"""Prompts: recorded ids verbatim, forks, and an answer that must be a call."""

from __future__ import annotations

from typing import Any

import pytest

from server.engines.protocol import SamplingParams
from server.recording.episode import Episode, Tail
from server.recording.prompts import render_prompt
from server.recording.tokens import chain_hashes
from server.recording.turn_request import TurnRequest
from server.rendering.bytes_tokenizer import CHAT_TEMPLATE, END_OF_TURN, IM_END, BytesTokenizer
from server.rendering.render import Renderer
from server.rendering.template import ChatTemplate

BYTES = BytesTokenizer()
RENDERER = Renderer(ChatTemplate(BYTES, CHAT_TEMPLATE, END_OF_TURN))
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "And?"},
]
SAMPLED = [*b"  Yes. ", IM_END]
"""The answer as it was sampled, which is not how the template would write it."""


def episode() -> Episode:
    return Episode("ep", None, None, 0, 9, 0, "other", True)


def recorded(frame: Any = ()) -> Episode:
    """Return an episode that has recorded the beginning of `TALK`."""
    one = episode()
    one.newest = chain_hashes(TALK[:2], frame)[-1]
    one.tails[one.newest] = Tail(2, None, [*RENDERER.prompt(TALK[:1], frame), *SAMPLED], "turn")
    return one


def request(messages: list[dict[str, Any]], **more: Any) -> TurnRequest:
    return TurnRequest(messages, SamplingParams(10), **more)


def test_a_prompt_extends_the_recorded_ids_verbatim() -> None:
    one = recorded()
    prompt = render_prompt(RENDERER, one, request(TALK)).prompt
    known = one.tails[one.newest or ""].path()
    assert prompt.ids == known + prompt.new_ids and prompt.parent is one.tails[one.newest or ""]
    assert BYTES.decode(prompt.new_ids, skip_special=False) == (
        "\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (prompt.new_messages, prompt.chain_hash, prompt.forked) == (TALK[2:], chain_hashes(TALK)[-1], False)


def test_an_older_end_and_a_rewritten_history_are_forks() -> None:
    one = recorded()
    one.newest = "a later turn"
    older = render_prompt(RENDERER, one, request(TALK)).prompt
    assert older.forked and older.parent is not None
    rewritten = [TALK[0], {"role": "assistant", "content": "No."}, TALK[2]]
    prompt = render_prompt(RENDERER, recorded(), request(rewritten)).prompt
    assert (prompt.forked, prompt.parent, prompt.new_messages) == (True, None, rewritten)
    assert prompt.ids == prompt.new_ids == RENDERER.prompt(rewritten)
    assert not render_prompt(RENDERER, episode(), request(TALK)).prompt.forked


def test_other_tools_are_another_conversation() -> None:
    assert render_prompt(RENDERER, recorded(), request(TALK, tools=TOOLS)).prompt.parent is None
    assert render_prompt(RENDERER, recorded(TOOLS), request(TALK, tools=TOOLS)).prompt.parent is not None


@pytest.mark.parametrize("known", [True, False])
def test_a_forced_call_begins_in_the_prompt(known: bool) -> None:
    one = recorded(TOOLS) if known else episode()
    plain = render_prompt(RENDERER, one, request(TALK, tools=TOOLS))
    forced = render_prompt(RENDERER, one, request(TALK, tools=TOOLS, call="look"))
    begin = BYTES.encode("<tool_call>\n")
    assert forced.prompt.ids == plain.prompt.ids + begin
    assert forced.prompt.new_ids == plain.prompt.new_ids + begin
    assert (plain.format.begins, forced.format.begins) == ("content", "call")
    assert forced.prompt.parent is plain.prompt.parent and forced.prompt.chain_hash == plain.prompt.chain_hash


def test_calls_are_read_only_if_there_are_tools_and_the_request_wants_them() -> None:
    def reads(**more: Any) -> bool:
        return render_prompt(RENDERER, episode(), request(TALK, **more)).format.tools

    assert (reads(), reads(tools=TOOLS), reads(tools=TOOLS, reads_calls=False)) == (False, True, False)
    one_call = render_prompt(RENDERER, episode(), request(TALK, tools=TOOLS, parallel_calls=False)).format.one_call
    assert one_call and not render_prompt(RENDERER, episode(), request(TALK, tools=TOOLS)).format.one_call


def test_ids_of_the_caller_are_the_prompt() -> None:
    given = request(TALK, prompt_ids=[1, 2, 3])
    prompt = render_prompt(RENDERER, recorded(), given).prompt
    assert (prompt.ids, prompt.new_ids, prompt.parent, prompt.forked) == ([1, 2, 3], [1, 2, 3], None, True)
    assert render_prompt(RENDERER, episode(), given, [9]).prompt.ids == [1, 2, 3]
    assert render_prompt(RENDERER, episode(), request(TALK), [9]).prompt.ids == [9]
