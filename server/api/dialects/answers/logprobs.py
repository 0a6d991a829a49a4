"""Texts, bytes, and logprobs of sampled tokens, as vLLM's routes show them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from server.recording.turn import Answer
from server.rendering.answers import Delta
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


class Logprobs(ABC):
    """The `logprobs` of one answer, in one piece or several.

    Args:
        tokenizer: the policy's tokenizer.
        ids_as_text: write each token as `token_id:N`.
    """

    def __init__(self, tokenizer: Tokenizer, *, ids_as_text: bool = False) -> None:
        self._texts = TokenTexts(tokenizer)
        self._ids_as_text = ids_as_text
        self._count = 0
        """Number of tokens that have been shown."""

    def of_delta(self, delta: Delta) -> dict[str, Any] | None:
        """Return the logprobs of the tokens that arrived with a piece of a stream; None without tokens."""
        return self._next(delta.token_ids, delta.logprobs, delta.top_logprobs) if delta.token_ids else None

    def rest(self, answer: Answer) -> dict[str, Any]:
        """Return the logprobs of the tokens that have not been shown."""
        first, tops = self._count, answer.top_logprobs or []
        return self._next(answer.token_ids[first:], answer.logprobs[first:], tops[first:])

    def _next(
        self, token_ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Mapping[int, float]]
    ) -> dict[str, Any]:
        self._count += len(token_ids)
        return self.of(token_ids, logprobs, tops)

    @abstractmethod
    def of(
        self, token_ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Mapping[int, float]]
    ) -> dict[str, Any]:
        """Return the dialect's form of the next tokens.

        Args:
            token_ids: [K] sampled ids.
            logprobs: [K]
            tops: [K] alternatives, or empty if none were requested.
        """

    def _written(self, token_id: int, text: str) -> str:
        """Return how a token is written."""
        return f"token_id:{token_id}" if self._ids_as_text else text


class ChatLogprobs(Logprobs):
    """Chat's form: an entry for each token.

    Args:
        tokenizer: the policy's tokenizer.
        alternatives: number of `top_logprobs` that were requested.
        ids_as_text: write each token as `token_id:N`.
    """

    def __init__(self, tokenizer: Tokenizer, alternatives: int, *, ids_as_text: bool = False) -> None:
        super().__init__(tokenizer, ids_as_text=ids_as_text)
        self._alternatives = alternatives

    def of(
        self, token_ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Mapping[int, float]]
    ) -> dict[str, Any]:
        """Return the entries of the next tokens."""
        content = []
        for position, (token_id, logprob) in enumerate(zip(token_ids, logprobs, strict=True)):
            listed = islice(tops[position].items(), self._alternatives) if tops else ()
            others = [self._entry(other, self._texts.of(other), value) for other, value in listed]
            content.append({**self._entry(token_id, self._texts.add(token_id), logprob), "top_logprobs": others})
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, text: str, logprob: float) -> dict[str, Any]:
        written, text_bytes = self._written(token_id, text), list(text.encode(errors="replace"))
        return {"token": written, "logprob": _finite(logprob), "bytes": text_bytes}


class CompletionLogprobs(Logprobs):
    """The form of text completions: a list for each property.

    Args:
        tokenizer: the policy's tokenizer.
        alternatives: number of the likeliest tokens that are shown in addition to each token.
        ids_as_text: write each token as `token_id:N`.
    """

    _offset = 0
    """Number of characters of the tokens so far."""

    def __init__(self, tokenizer: Tokenizer, alternatives: int, *, ids_as_text: bool = False) -> None:
        super().__init__(tokenizer, ids_as_text=ids_as_text)
        self._alternatives = alternatives

    def of(
        self, token_ids: Sequence[int], logprobs: Sequence[float], tops: Sequence[Mapping[int, float]]
    ) -> dict[str, Any]:
        """Return the lists of the next tokens."""
        if not tops and not self._alternatives:
            tops = [{}] * len(token_ids)
        return self._lists(token_ids, logprobs, tops)

    def of_prompt(self, token_ids: Sequence[int], entries: Sequence[Mapping[int, float]]) -> dict[str, Any]:
        """Return the lists of the prompt's tokens, which come before the answer; the first token has no logprob.

        Args:
            token_ids: [T]
            entries: [T-1] logprobs by token id of each token after the first, and of its alternatives.
        """
        values = [entry[token_id] for token_id, entry in zip(token_ids[1:], entries, strict=True)]
        return self._lists(token_ids, [None, *values], [{}, *entries])

    def _lists(
        self, token_ids: Sequence[int], logprobs: Sequence[float | None], tops: Sequence[Mapping[int, float]]
    ) -> dict[str, Any]:
        texts, offsets, others = list[str](), list[int](), list[dict[str, float] | None]()
        for position, (token_id, logprob) in enumerate(zip(token_ids, logprobs, strict=True)):
            if tops:
                others.append(None if logprob is None else self._top(token_id, logprob, tops[position]))
            text = self._texts.add(token_id)
            texts.append(self._written(token_id, text))
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [None if value is None else _finite(value) for value in logprobs],
            "text_offset": offsets,
            "top_logprobs": others or None,
        }

    def _top(self, token_id: int, logprob: float, top: Mapping[int, float]) -> dict[str, float]:
        """Return the likeliest tokens, and the token itself where it is not among them."""
        best = sorted(top.items(), key=lambda pair: -pair[1])[: self._alternatives]
        shown = {token_id: logprob, **dict(best)}
        return {self._written(other, self._texts.of(other)): _finite(value) for other, value in shown.items()}


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the lists of several parts, in their order, as one; None without a part."""
    if not parts:
        return None
    whole = {name: [entry for part in parts for entry in part[name] or []] for name in parts[0]}
    return {**whole, "top_logprobs": whole["top_logprobs"] or None}


def _finite(logprob: float) -> float:
    return logprob if logprob > LEAST else LEAST
