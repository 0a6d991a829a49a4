"""Shapes of a conversation for chat templates that refuse it as it is (step 2).

Strict templates demand alternating roles, no system message, one call at a time, or call ids of nine characters. An
agent cannot know that, and its episode must not end with an error in the middle. A conversation that the template
accepts is never reshaped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from server.rendering.content_marks import without_splits

Conversation = list[dict[str, Any]]
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_BETWEEN = "\n\n"


def shapes(messages: Conversation) -> Iterator[Conversation]:
    """Yield normalized messages as they are, then in shapes that more and more templates accept."""
    shape = messages
    yield shape
    for change in _CHANGES:
        before, shape = shape, change(shape)
        if shape != before:
            yield shape


def _with_plain_calls(messages: Conversation) -> Conversation:
    """Give every call an object of arguments and an id of nine letters or digits, and every result its call's id.

    Mistral's templates refuse other ids.
    """
    new_id, changed = count(), []
    waiting: list[str] = []
    """Ids of the calls without a result."""
    for message in messages:
        if calls := message.get("tool_calls"):
            calls = [_plain_call(call, new_id) for call in calls]
            waiting = [call["id"] for call in calls]
            message = {**message, "tool_calls": calls}
        elif message["role"] == "tool":
            given = message.get("tool_call_id")
            result_of = _short(str(given)) if given else next(iter(waiting), _short(f"result {next(new_id)}"))
            waiting = [call_id for call_id in waiting if call_id != result_of]
            message = {**message, "tool_call_id": result_of}
        changed.append(message)
    return changed


def _plain_call(call: dict[str, Any], new_id: Iterator[int]) -> dict[str, Any]:
    arguments = call["function"].get("arguments")
    if not isinstance(arguments, dict):
        arguments = {"arguments": arguments} if arguments else {}
    call_id = _short(str(call.get("id") or f"call {next(new_id)}"))
    return {**call, "id": call_id, "function": {**call["function"], "arguments": arguments}}


def _with_all_results(messages: Conversation) -> Conversation:
    """Give an empty result to every call that the conversation leaves without one."""
    changed: Conversation = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            waiting = [call_id for call_id in waiting if call_id != message["tool_call_id"]]
        else:
            changed += [{"role": "tool", "tool_call_id": call_id, "content": ""} for call_id in waiting]
            waiting = [call["id"] for call in message.get("tool_calls") or []]
        changed.append(message)
    return changed


def _with_alternating_roles(messages: Conversation) -> Conversation:
    """Join neighbors of one role; later system messages, and text after the results of tools, are the user's."""
    groups: list[Conversation] = []
    for message in messages:
        if message["role"] == "system" and groups:
            message = {**message, "role": "user"}
        role, last = message["role"], groups[-1][0]["role"] if groups else None
        if (role != "tool" and role == last) or (role, last) == ("user", "tool"):
            groups[-1].append(message)
        else:
            groups.append([message])
    return [_joined(group) if len(group) > 1 else group[0] for group in groups]


def _joined(group: Conversation) -> dict[str, Any]:
    whole = {**group[0], "content": _text(group)}
    if calls := [call for message in group for call in message.get("tool_calls") or []]:
        whole["tool_calls"] = calls
    return whole


def _with_single_calls(messages: Conversation) -> Conversation:
    """Write several calls of one answer as an answer each, followed by its result; Llama 3's templates need that."""
    single: Conversation = []
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            single.append(message)
            continue
        results: Conversation = []
        while position < len(messages) and messages[position]["role"] == "tool":
            results.append(messages[position])
            position += 1
        for number, call in enumerate(calls):
            single.append({**message, "content": "" if number else message["content"], "tool_calls": [call]})
            own = [result for result in results if result["tool_call_id"] == call["id"]]
            single += own
            results = [result for result in results if result not in own]
        single += results
    return single


def _without_system(messages: Conversation) -> Conversation:
    """Put the system message before the first user message; Gemma's templates have no system role."""
    if not messages or messages[0]["role"] != "system":
        return messages
    first, *rest = messages
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": _text([first, rest[0]])}, *rest[1:]]
    return [{**first, "role": "user"}, *rest]


_CHANGES: tuple[Callable[[Conversation], Conversation], ...] = (
    _with_plain_calls,
    _with_all_results,
    _with_alternating_roles,
    _with_single_calls,
    _without_system,
)


def _text(messages: Conversation) -> str:
    return _BETWEEN.join(filter(None, (message["content"] for message in messages)))


def _short(call_id: str) -> str:
    call_id = without_splits(call_id)
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(errors="surrogatepass"), digest_size=5).hexdigest()[:9]
