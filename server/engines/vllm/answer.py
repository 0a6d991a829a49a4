"""Parses vLLM's answers: tokens with logprobs, cut where the policy version changes; and its errors.

`sampling.py` decides when tokens are passed on; `channel.py` and `http.py` hold the connections.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from server.engines.protocol import FinishReason, Piece, Span
from server.engines.vllm.frames import Chunk
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
        self._logprobs: list[float] = []
        self._alternatives: list[dict[int, float]] = []

    def add(self, chunk: Chunk) -> None:
        """Add the tokens of one chunk."""
        if len(chunk.token_ids) != len(chunk.logprobs):
            raise EngineError(f"vLLM sent {len(chunk.token_ids)} tokens with {len(chunk.logprobs)} logprobs")
        self.ids += chunk.token_ids
        self._logprobs += chunk.logprobs
        self._alternatives += chunk.alternatives or []

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
            last = number == max(len(cuts), 1) - 1
            yield Piece(
                self.ids[begin:end],
                self._logprobs[begin:end],
                version,
                finish if last else None,
                self._alternatives[begin:end] if top else None,
                spans if last and replaced else None,
            )


def chunk_of(choice: dict[str, Any]) -> Chunk:
    """Return a choice of vLLM's route for tokens as a chunk."""
    entries = (choice["logprobs"] or {}).get("content") or []
    versions = choice["weight_versions"]
    return Chunk(
        0,  # Each connection of HTTP has one answer.
        choice["token_ids"] or [],
        [entry["logprob"] for entry in entries],
        [{one["token_id"]: one["logprob"] for one in entry["top_logprobs"]} for entry in entries],
        choice["finish_reason"],
        None if versions is None else [(span["version"], span["start"], span["end"]) for span in versions],
    )


def read_spans(chunk: Chunk, tokens: int) -> list[Span]:
    """Return the spans of a whole answer of `tokens` tokens, from its last chunk.

    Raises:
        EngineError: vLLM returned no weight version, or an unknown one.
    """
    raw = chunk.versions
    if not raw:
        raise EngineError(f"vLLM returned no weight version for an answer of {tokens} tokens")
    if not all(label.isdecimal() for label, _, _ in raw) or raw[-1][2] != tokens:
        raise EngineError(f"vLLM returned weight versions {raw} for an answer of {tokens} tokens")
    return [(int(label), first, end) for label, first, end in raw]


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
