"""Parses vLLM's streamed answer: tokens with logprobs, cut where the policy version changes.

`vllm_sampling.py` decides when tokens are passed on, and `vllm_http.py` holds the connections.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from server.engines.protocol import FinishReason, Piece, Span
from server.errors import BadRequest, ContextTooLong, EngineError, NotFound, UpturnError

RESTART_S = 30
"""`Retry-After` while vLLM restarts (measured: 22 to 25 s with a small model)."""
LONGEST_ERROR = 1000
"""Characters of an unknown error of vLLM that are passed on."""


class Tokens:
    """Tokens that were received and not passed on yet."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        """[K]"""
        self._entries: list[dict[str, Any]] = []

    def add(self, choice: dict[str, Any]) -> None:
        """Add the tokens of one chunk's choice."""
        ids, entries = choice["token_ids"] or [], (choice["logprobs"] or {}).get("content") or []
        if len(ids) != len(entries):
            raise EngineError(f"vLLM sent {len(ids)} tokens with {len(entries)} logprobs")
        self.ids += ids
        self._entries += entries

    def pieces(
        self, spans: list[Span], first: int, top: int, finish: FinishReason | None = None, *, replaced: bool = False
    ) -> Iterator[Piece]:
        """Yield the tokens, cut where the version changes.

        Args:
            spans: versions of the answer's tokens.
            first: index in the answer of the first token held.
            top: number of alternatives that were requested.
            finish: reason why the answer ends here.
            replaced: weights were replaced meanwhile, so the last piece carries the versions of the whole answer.
        """
        cuts = [(version, max(begin - first, 0), end - first) for version, begin, end in spans if end > first]
        for number, (version, begin, end) in enumerate(cuts or [(spans[-1][0], 0, 0)]):
            entries = self._entries[begin:end]
            alternatives = [{t["token_id"]: t["logprob"] for t in entry["top_logprobs"]} for entry in entries]
            last = number == max(len(cuts), 1) - 1
            yield Piece(
                self.ids[begin:end],
                [entry["logprob"] for entry in entries],
                version,
                finish if last else None,
                alternatives if top else None,
                spans if last and replaced else None,
            )


def read_spans(choice: dict[str, Any], tokens: int) -> list[Span]:
    """Return the spans of a whole answer of `tokens` tokens.

    Raises:
        EngineError: vLLM returned no weight version, or an unknown one.
    """
    raw = choice["weight_versions"]
    if not raw:
        raise EngineError(f"vLLM returned no weight version for an answer of {tokens} tokens")
    if not all(span["version"].isdecimal() for span in raw) or raw[-1]["end"] != tokens:
        raise EngineError(f"vLLM returned weight versions {raw} for an answer of {tokens} tokens")
    return [(int(span["version"]), span["start"], span["end"]) for span in raw]


def check_spans(spans: list[Span], version: int, certain: int) -> None:
    """Check that `version` sampled the first `certain` tokens, which arrived before any replacement had begun.

    Raises:
        EngineError: something else changed vLLM's weights.
    """
    if certain and (spans[0][0] != version or spans[0][2] < certain):
        raise EngineError(f"vLLM sampled with versions {spans}, not with {version}: something else changed its weights")


def error_of(status: int, text: str, where: str = "") -> UpturnError:
    """Return the project's error for an error of vLLM.

    Args:
        status: the HTTP status.
        text: the error's body or message.
        where: the control route that failed.
    """
    message = f"{where}: {_message(text)}" if where else _message(text)
    if status == 404:
        return NotFound(f"vLLM: {message}")
    if 400 <= status < 500:
        if "maximum context length" in message:
            return ContextTooLong(message)
        return BadRequest(f"vLLM: {message}")
    return EngineError(f"vLLM answered {status}: {message}", retry_after_s=RESTART_S)


def _message(text: str) -> str:
    """Return what an error says, without the JSON around it."""
    try:
        said = json.loads(text)
    except ValueError:
        return text[:LONGEST_ERROR]
    while isinstance(said, dict):
        said = next((said[key] for key in ("error", "message", "detail") if said.get(key)), None)
    if isinstance(said, list):
        said = "; ".join(str(item.get("msg", "")) if isinstance(item, dict) else str(item) for item in said)
    return said[:LONGEST_ERROR] if isinstance(said, str) and said else "an error without a message"
