"""OpenAI's `POST /v1/responses`, whole and as server-sent events, and what is on record: `GET`, `DELETE`, input items.

The requests are in `responses_request.py`, the form of a response in `response_form.py`. A response is a turn: its id
contains the turn's, and the earlier conversation is read from the record.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Annotated, Any, Literal

from fastapi import Query
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter

from server import heavy
from server.api.dialects.answering import Conversation
from server.api.dialects.answers.blocks import Block, Kind, blocks, blocks_of
from server.api.dialects.answers.logprobs import ChatLogprobs
from server.api.dialects.call import Call, CallOf
from server.api.dialects.conversation import Conversations, ConversationsOf
from server.api.dialects.dialect import Dialect
from server.api.dialects.fields.check import check
from server.api.dialects.response_form import PREFIX, Output, common_fields, input_items
from server.api.dialects.responses_request import INSTRUCTIONS, Item, ResponsesRequest
from server.api.dialects.streams import Pieces, event, merged, sse
from server.api.dialects.tools.custom import input_of
from server.api.dialects.tools.responses_tools import originals
from server.errors import NotFound, UpturnError
from server.recording.conversation import Past
from server.recording.turn import Answer
from server.rendering.answers import Delta

dialect = Dialect("responses")

_ID = re.compile(rf"{PREFIX}(\w{{1,64}})", re.ASCII)
_ITEM_ID = re.compile(r"(msg|rs|fc|ctc)_(\w{1,64})_(\d{1,6})", re.ASCII)
_GROWTH: dict[Kind, str] = {
    "content": "response.output_text",
    "reasoning": "response.reasoning_text",
    "call": "response.function_call_arguments",
}
_CUSTOM_GROWTH = "response.custom_tool_call_input"
Order = Literal["asc", "desc"]
_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


@dialect.post("/v1/responses", may_stream=True)
async def respond(body: ResponsesRequest, conversations: ConversationsOf, call: CallOf) -> Response:
    """Answer a conversation in the form of the Responses API. Its episode is found as for chat."""
    warnings = await heavy.run(call.size, lambda: check("responses", body))
    before = await _before(conversations, call, body.previous_response_id)
    recorded = await _recorded(conversations, call, body.references())
    items = 1 if isinstance(body.input, str) else len(body.input)
    chat = await heavy.run(call.weight(len(before) + items), lambda: body.chat(before, recorded))
    conversation = await conversations.begin(
        replace(call, returned=body.returned()), chat, [*warnings, *body.warnings()]
    )
    turn = conversation.turns[0]
    pieces = await merged(conversation) if body.stream else None
    common = common_fields(turn.id, conversation.model, time.time(), body)
    output = Output(turn.id, originals(body.tools or ()))
    reasoning = body.include_reasoning is not False
    logprobs = _Logprobs(ChatLogprobs(conversations.tokenizer, body.top_logprobs or 0) if body.logprobs else None)
    if pieces is not None:
        return sse(conversation, _stream(common, conversation, pieces, output, logprobs, reasoning=reasoning))
    (answer,) = await conversation.answers()
    shown = blocks_of(answer.message, reasoning=reasoning)
    logprobs.complete(shown, answer)
    whole = {
        **common,
        **output.ended(shown, answer.finish_reason, answer.prompt_tokens, len(answer.token_ids)),
    }
    return JSONResponse(whole, headers={**conversation.headers, "x-policy-version": str(answer.version)})


@dialect.get("/v1/responses/{response_id}")
async def get_response(response_id: str, conversations: ConversationsOf, call: CallOf) -> dict[str, Any]:
    """Return a recorded response. Of its request, only instructions and temperature are recorded."""
    past = await _past(conversations, call, response_id)
    turn, first = past.turn, past.messages[0]
    return {
        **common_fields(turn.id, f"{conversations.policy}@{turn.policy_version}", turn.created_at),
        "instructions": first["content"] if first.get("id") == INSTRUCTIONS else None,
        "temperature": turn.temperature,
        **Output(turn.id).ended(blocks_of(turn.answer), turn.finish_reason, turn.prompt_tokens, turn.completion_tokens),
    }


@dialect.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, conversations: ConversationsOf, call: CallOf) -> dict[str, Any]:
    """Hide a recorded response and keep it from training. Its text stays in its episode until that is erased."""
    turn_id = _ID.fullmatch(response_id)
    if turn_id is None or not await conversations.hide(call, turn_id[1]):
        raise _not_found(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@dialect.get("/v1/responses/{response_id}/input_items")
async def list_input_items(
    response_id: str,
    conversations: ConversationsOf,
    call: CallOf,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Order = "desc",
    after: Annotated[str | None, Query(max_length=100)] = None,
) -> dict[str, Any]:
    """List the items of a response's input and of the conversation before it; the newest first by default."""
    past = await _past(conversations, call, response_id)
    items = input_items(past.turn.id, past.messages)
    if order == "desc":
        items.reverse()
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise NotFound(f"item {after!r} not found", param="after", code="item_not_found")
        items = items[ids.index(after) + 1 :]
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > len(page),
    }


async def _recorded(conversations: Conversations, call: Call, ids: list[str]) -> dict[str, Item]:
    """Return the recorded items that an input names, as a client would send them back.

    Raises:
        NotFound: an item is not on record, or belongs to another caller.
    """
    if not ids:
        return {}
    found = {item_id: _ITEM_ID.fullmatch(item_id) for item_id in ids}
    turn_ids = {match[2] for match in found.values() if match is not None}
    answers = await conversations.recorded_answers(call, turn_ids)
    sent: list[dict[str, Any]] = []
    for item_id, match in found.items():
        item = _recorded_item(match, answers) if match is not None else None
        if item is None:
            raise NotFound(f"item {item_id[:100]!r} not found", param="input", code="item_not_found")
        sent.append(item)
    return dict(zip(found, _ITEMS.validate_python(sent), strict=True))


def _recorded_item(item_id: re.Match[str], answers: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the item of an id, which counts the thoughts only if they were shown."""
    kind, turn_id, index = {"msg": "content", "rs": "reasoning"}.get(item_id[1], "call"), item_id[2], int(item_id[3])
    for reasoning in (True, False):
        parts = blocks_of(answers[turn_id], reasoning=reasoning) if turn_id in answers else []
        if index < len(parts) and parts[index].kind == kind:
            return Output(turn_id).item(parts[index])
    return None


async def _before(conversations: Conversations, call: Call, response_id: str | None) -> list[dict[str, Any]]:
    """Return the conversation up to and including a response."""
    if response_id is None:
        return []
    past = await _past(conversations, call, response_id)
    return [*past.messages, past.turn.answer]


async def _past(conversations: Conversations, call: Call, response_id: str) -> Past:
    turn_id = _ID.fullmatch(response_id)
    past = await conversations.past(call, turn_id[1]) if turn_id else None
    if past is None:
        raise _not_found(response_id)
    return past


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"response {response_id!r} not found", code="response_not_found")


class _Logprobs:
    """The logprobs of an answer's tokens, which belong to its first text.

    Args:
        form: how they are written; None if the request does not want them.
    """

    def __init__(self, form: ChatLogprobs | None) -> None:
        self._form = form
        self._arrived: list[dict[str, Any]] = []
        self._sent = 0

    async def watch(self, pieces: Pieces) -> AsyncIterator[tuple[int, Delta]]:
        """Yield the pieces of a stream, and keep the logprobs of their tokens."""
        async for index, delta in pieces:
            if self._form is not None and (found := self._form.of_delta(delta)) is not None:
                self._arrived += found["content"]
            yield index, delta

    def new(self) -> list[dict[str, Any]]:
        """Return those that have arrived since the last call."""
        new, self._sent = self._arrived[self._sent :], len(self._arrived)
        return new

    def complete(self, shown: Sequence[Block], answer: Answer) -> None:
        """Give the answer's first text the logprobs of all of its tokens."""
        text = next((block for block in shown if block.kind == "content"), None)
        if self._form is not None and text is not None:
            text.logprobs = self._arrived + self._form.rest(answer)["content"]


async def _stream(
    common: dict[str, Any],
    conversation: Conversation,
    pieces: Pieces,
    form: Output,
    logprobs: _Logprobs,
    *,
    reasoning: bool,
) -> AsyncGenerator[str, None]:
    """Yield the events of one response."""
    numbers = count()

    def say(kind: str, **fields: Any) -> str:
        return event({"type": kind, "sequence_number": next(numbers), **fields}, kind)

    yield say("response.created", response=common)
    yield say("response.in_progress", response=common)
    output: list[Block] = []
    try:
        async for stage, block, text in blocks(logprobs.watch(pieces), reasoning=reasoning):
            where: dict[str, Any] = {"output_index": block.index, "item_id": form.id_of(block)}
            inside = where if block.kind == "call" else {**where, "content_index": 0}
            custom = form.is_custom(block)
            growth = _CUSTOM_GROWTH if custom else _GROWTH[block.kind]
            if stage == "opens":
                output.append(block)
                item = {**form.item(block, "in_progress"), **({} if block.call else {"content": []})}
                yield say("response.output_item.added", output_index=block.index, item=item)
                if block.call is None:
                    yield say("response.content_part.added", **inside, part=form.part(block))
            elif stage == "grows":
                more: dict[str, Any] = {}
                if block.kind == "content":
                    more["logprobs"] = logprobs.new()
                    block.logprobs += more["logprobs"]
                yield say(f"{growth}.delta", **inside, **more, delta=input_of(text) if custom else text)
            else:
                named = "input" if custom else "arguments" if block.call else "text"
                whole_text = input_of(block.text) if custom else block.text
                more = {"logprobs": block.logprobs} if block.kind == "content" else {}
                yield say(f"{growth}.done", **inside, **more, **{named: whole_text})
                if block.call is None:
                    yield say("response.content_part.done", **inside, part=form.part(block))
                yield say("response.output_item.done", output_index=block.index, item=form.item(block))
        (answer,) = await conversation.answers()
        logprobs.complete(output, answer)
        ended = form.ended(output, answer.finish_reason, answer.prompt_tokens, len(answer.token_ids))
        whole = {**common, **ended}
        yield say(f"response.{ended['status']}", response=whole)
    except UpturnError as error:
        failure = {"code": "server_error", "message": error.message}
        yield say("response.failed", response={**common, "status": "failed", "error": failure})
