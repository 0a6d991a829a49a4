"""Why an answer ended, in the words of vLLM's chat route, from which other dialects derive their own."""

from __future__ import annotations

from typing import Literal

from server.recording.turn import Answer
from server.rendering.render import Renderer
from server.rendering.tokenizer import first_stop

Choice = Literal["auto", "required", "named"]
"""Whether the model had to call a tool, or one particular tool."""


def finish_reason(answer: Answer, choice: Choice, *, whole: bool) -> str:
    """Return chat's `finish_reason`.

    As in OpenAI's API, an answer that had to call one tool just stops. An answer that is cut off after a call ends with
    `tool_calls` if it is sent whole, and with `length` in a stream.
    """
    cut = answer.finish_reason == "length"
    calls = bool(answer.message.get("tool_calls")) and choice != "named"
    if calls and (not cut or (whole and choice == "auto")):
        return "tool_calls"
    return "length" if cut else "stop"


def stop_reason(answer: Answer, stop: tuple[str, ...], renderer: Renderer) -> str | int | None:
    """Return the stop string that ended an answer, or the token that did if it is not the model's `eos_token`."""
    if answer.finish_reason != "stop":
        return None
    found = first_stop(renderer.tokenizer.decode(answer.token_ids), stop) if stop else None
    if found is not None or not answer.token_ids:
        return found
    last = answer.token_ids[-1]
    is_end = not renderer.tokenizer.shown([last])
    return last if is_end and last != renderer.eos_id else None
