"""Texts, bytes, and logprobs of sampled tokens, as vLLM's routes show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from server.rendering.tokenizer import Tokenizer

LEAST = -9999.0
"""Shown for smaller logprobs, since JSON has no infinity."""
_CONTEXT_TOKENS = 4
"""Earlier tokens in which a character may have begun."""
_UNFINISHED = "\ufffd"


class TokenTexts:
    """Texts of tokens in the order in which they were sampled.

    The tokens that begin a character have no text, and the one that completes it has all of it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        """The newest sampled tokens."""
        self._known: dict[int, str] = {}

    def of(self, token_id: int) -> str:
        """Return the text of a token that comes next, or might."""
        text = self._known.get(token_id)
        if text is None:
            text = self._known[token_id] = self._tokenizer.text_of(token_id)
        return self._completed(token_id) if text.endswith(_UNFINISHED) else text

    def add(self, token_id: int) -> str:
        """Return the text of the next token, which those after it continue."""
        text = self.of(token_id)
        self._context = [*self._context, token_id][-_CONTEXT_TOKENS:]
        return text

    def _completed(self, token_id: int) -> str:
        """Return the character that a token completes; empty if it is not complete."""
        decode = self._tokenizer.decode_all
        for size in range(1, len(self._context) + 1):
            context = self._context[-size:]
            whole = decode([*context, token_id])
            if whole.endswith(_UNFINISHED):
                continue
            while context and decode(context[-1:]).endswith(_UNFINISHED):
                context.pop()
            before = decode(context) if context else ""
            same = next((at for at, (one, other) in enumerate(zip(before, whole, strict=False)) if one != other), None)
            return whole[min(len(before), len(whole)) if same is None else same :]
        return ""


class ChatLogprobs:
    """Chat's `logprobs` of one answer, in one piece or several.

    Args:
        tokenizer: the policy's tokenizer.
        alternatives: number of `top_logprobs` that were requested.
    """

    def __init__(self, tokenizer: Tokenizer, alternatives: int) -> None:
        self._texts = TokenTexts(tokenizer)
        self._alternatives = alternatives
        self.shown = 0
        """Number of tokens so far."""

    def of(
        self, token_ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Mapping[int, float]]
    ) -> dict[str, Any]:
        """Return the entries of the next tokens.

        Args:
            token_ids: [K] sampled ids.
            logprobs: [K]
            tops: [K] alternatives, or empty if none were requested.
        """
        content = []
        for position, (token_id, logprob) in enumerate(zip(token_ids, logprobs, strict=True)):
            listed = islice(tops[position].items(), self._alternatives) if tops else ()
            others = [_entry(self._texts.of(other), value) for other, value in listed]
            content.append({**_entry(self._texts.add(token_id), logprob), "top_logprobs": others})
        self.shown += len(content)
        return {"content": content, "refusal": None}


def shown(logprob: float) -> float:
    """Return a logprob that JSON can express."""
    return logprob if logprob > LEAST else LEAST


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": shown(logprob), "bytes": list(text.encode(errors="replace"))}
