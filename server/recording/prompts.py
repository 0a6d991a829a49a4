"""From a request to its prompt: recorded token ids as far as they reach, then the rendering of the new messages.

The hash of the messages only finds the recorded part; its token ids are reused verbatim. If no recorded part can be
continued, the whole conversation is rendered and the turn counts as a fork.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.recording.episode import Episode
from server.recording.recorder import Prompt
from server.recording.tokens import chain_hashes
from server.recording.turn_request import TurnRequest
from server.rendering.answers import AnswerFormat, Part
from server.rendering.hermes import HERMES_CALLS
from server.rendering.render import Renderer


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt, and how to read the answer to it."""

    prompt: Prompt
    format: AnswerFormat


def render_prompt(
    renderer: Renderer, episode: Episode, request: TurnRequest, whole_ids: list[int] | None = None
) -> Rendered:
    """Return the prompt of a request, on top of the longest recorded part of its conversation.

    Args:
        renderer: turns messages into token ids.
        episode: holds the recorded conversations.
        request: the request to render.
        whole_ids: [T] the rendering of the whole conversation, if the caller has it already.

    Raises:
        BadRequest: the chat template refuses the messages, or the model cannot be forced to call a tool.
    """
    hashes = chain_hashes(request.messages, request.frame)
    if request.prompt_ids is not None:
        ids = request.prompt_ids
        prompt = Prompt(ids, None, ids, request.messages, hashes[-1], forked=episode.newest is not None)
        return Rendered(prompt, AnswerFormat(request.sampling.stop))
    prompt = _continued(renderer, episode, request, hashes) or _whole(renderer, episode, request, hashes, whole_ids)
    parser = renderer.parser(prompt.ids, request.tools, request.template_options)
    begins: Part = "reasoning" if parser.in_thoughts else "content"
    if request.call is not None:  # The engine constrains a forced call to JSON in the Hermes form.
        forced_ids = renderer.forced_call(after_reasoning=parser.in_thoughts)
        prompt = replace(prompt, ids=prompt.ids + forced_ids, new_ids=prompt.new_ids + forced_ids)
        begins, parser = "call", HERMES_CALLS
    if request.prefill:
        begun_ids = with_prefill(renderer, request, prompt.ids)[len(prompt.ids) :]
        prompt, begins = replace(prompt, ids=prompt.ids + begun_ids, new_ids=prompt.new_ids + begun_ids), "content"
    return Rendered(
        prompt,
        AnswerFormat(
            request.sampling.stop,
            tools=bool(request.tools) and request.reads_calls,
            reasons=renderer.reasons and not request.prefill,
            begins=begins,
            parser=parser,
            one_call=not request.parallel_calls,
        ),
    )


def with_prefill(renderer: Renderer, request: TurnRequest, ids: list[int]) -> list[int]:
    """Return a prompt's ids with the beginning of the answer that the caller wrote; open thoughts end before it."""
    if not request.prefill:
        return ids
    in_thoughts = renderer.parser(ids, request.tools, request.template_options).in_thoughts
    return [*ids, *(renderer.end_of_thoughts() if in_thoughts else []), *renderer.text(request.prefill)]


def _continued(renderer: Renderer, episode: Episode, request: TurnRequest, hashes: list[str]) -> Prompt | None:
    """Return the prompt that extends the longest recorded part, or None if no recorded part can be extended."""
    for known in range(len(hashes), 0, -1):
        if (tail := episode.tails.get(hashes[known - 1])) is None:
            continue
        ids = tail.path()
        new_ids = renderer.follow(request.messages, known, ids, request.tools, request.template_options)
        if new_ids is not None:
            forked = hashes[known - 1] != episode.newest
            return Prompt(ids + new_ids, tail, new_ids, request.messages[known:], hashes[-1], forked)
    return None


def _whole(
    renderer: Renderer, episode: Episode, request: TurnRequest, hashes: list[str], whole_ids: list[int] | None
) -> Prompt:
    """Return the prompt that renders every message anew."""
    ids = whole_ids or renderer.prompt(request.messages, request.tools, request.template_options)
    return Prompt(ids, None, ids, request.messages, hashes[-1], forked=episode.newest is not None)
