"""Logprobs of the tokens of a completion's prompt, which the engine scores (lm-eval needs them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.api.dialects.completions_request import CompletionRequest
from server.api.dialects.conversation import Conversations


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


def prompt_logprobs(conversations: Conversations, prompt: Scored) -> list[dict[str, Any] | None]:
    """Return vLLM's `prompt_logprobs`: for each token after the first, logprobs by token id, the likeliest first."""
    listed: list[dict[str, Any] | None] = [None]
    for entry in prompt.entries or []:
        ordered = sorted(entry.items(), key=lambda pair: -pair[1])
        listed.append(
            {
                str(token_id): {"logprob": value, "decoded_token": conversations.tokenizer.text_of(token_id)}
                for token_id, value in ordered
            }
        )
    return listed
