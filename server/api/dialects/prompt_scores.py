"""Logprobs of completions: of the answer, and of the prompt, which the engine scores (lm-eval needs them)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from server.api.dialects.completions_request import CompletionRequest
from server.api.dialects.conversation import Conversations
from server.recording.turn import Answer

_Token = tuple[int, float | None, dict[int, float] | None]
"""A token, its logprob, and logprobs of alternatives by token id; the first token of a prompt has neither."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A prompt, scored or not."""

    text: str
    ids: list[int]
    """[T]"""
    entries: list[dict[int, float]] | None = None
    """[T-1] logprobs by token id of each token after the first and of its alternatives; None if not wanted."""


async def score(
    conversations: Conversations, body: CompletionRequest, text: str, ids: list[int], *, version: int
) -> Scored:
    """Return a prompt, with logprobs if the request wants them.

    Raises:
        BadRequest: the engine cannot score a prompt.
        ContextTooLong: the prompt does not fit.
    """
    if body.scores is None or len(ids) < 2:
        return Scored(text, ids, None if body.scores is None else [])
    engine = conversations.engine
    if version not in engine.versions:  # Full weights were replaced meanwhile.
        version = conversations.pointers.resolve(None, engine)
    return Scored(text, ids, await engine.score_top(version, ids, body.scores))


def logprobs(
    body: CompletionRequest, conversations: Conversations, prompt: Scored | None, answer: Answer | None
) -> dict[str, Any] | None:
    """Return OpenAI's `logprobs` of an echoed prompt and of an answer, either of which may be absent."""
    if body.logprobs is None:
        return None
    tokens: list[_Token] = []
    if prompt is not None and body.echo:
        tokens += _of_prompt(prompt, body.logprobs)
    if answer is not None:
        tops = answer.top_logprobs or [None] * len(answer.token_ids)
        tokens += zip(answer.token_ids, answer.logprobs, tops, strict=True)
    if not tokens and answer is None:
        return None

    def shown(token_id: int) -> str:
        return f"token_id:{token_id}" if body.return_tokens_as_token_ids else conversations.text_of(token_id)

    texts = [conversations.text_of(token_id) for token_id, _, _ in tokens]
    return {
        "tokens": [shown(token_id) for token_id, _, _ in tokens],
        "token_logprobs": [value for _, value, _ in tokens],
        "text_offset": list(accumulate(map(len, texts), initial=0))[:-1],
        "top_logprobs": [
            None if top is None else {shown(token_id): value for token_id, value in top.items()} for _, _, top in tokens
        ]
        if any(top is not None for _, _, top in tokens)
        else None,
    }


def prompt_logprobs(conversations: Conversations, prompt: Scored) -> list[dict[str, Any] | None]:
    """Return vLLM's `prompt_logprobs`: for each token after the first, logprobs by token id, the likeliest first."""
    listed: list[dict[str, Any] | None] = [None]
    for entry in prompt.entries or []:
        ordered = sorted(entry.items(), key=lambda pair: -pair[1])
        listed.append(
            {
                str(token_id): {"logprob": value, "decoded_token": conversations.text_of(token_id)}
                for token_id, value in ordered
            }
        )
    return listed


def _of_prompt(prompt: Scored, count: int) -> list[_Token]:
    tokens: list[_Token] = [(prompt.ids[0], None, None)]
    for token_id, entry in zip(prompt.ids[1:], prompt.entries or [], strict=True):
        best = sorted(entry.items(), key=lambda pair: -pair[1])[:count]
        tokens.append((token_id, entry[token_id], {token_id: entry[token_id], **dict(best)} if count else None))
    return tokens
