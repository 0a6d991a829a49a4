"""Takes vLLM's streamed answer apart: tokens with logprobs, cut where the policy version changes.

Used by `vllm.py`, which decides when tokens may be passed on. Knows vLLM's chunks, nothing of connections.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.engines.protocol import FinishReason, Piece, Span
from server.errors import BadRequest, ContextTooLong, EngineError, NotFound, UpturnError

RESTART_S = 30
"""What clients are told to wait for while vLLM starts again (measured: 22 to 25 s with a small model)."""


class Tokens:
    """Tokens received and not passed on yet."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        """[K]"""
        self._entries: list[dict[str, Any]] = []

    def add(self, choice: dict[str, Any]) -> None:
        """Take the tokens of one chunk's choice."""
        ids, entries = choice["token_ids"] or [], (choice["logprobs"] or {}).get("content") or []
        if len(ids) != len(entries):
            raise EngineError(f"vLLM sent {len(ids)} tokens with {len(entries)} logprobs")
        self.ids += ids
        self._entries += entries

    def pieces(
        self, spans: list[Span], first: int, top: int, finish: FinishReason | None = None, *, replaced: bool = False
    ) -> Iterator[Piece]:
        """Yield the tokens cut where the version changes.

        Args:
            spans: their versions.
            first: the answer's index of the first one held.
            top: whether alternatives were asked for.
            finish: why the answer ends here.
            replaced: weights were replaced meanwhile, so the last piece tells the whole answer's versions.
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
    """Return (version, first token, one past the last) for the whole answer.

    Raises:
        EngineError: vLLM tells no version, or one that is none of ours.
    """
    raw = choice["weight_versions"]
    if not raw:
        raise EngineError(f"vLLM told no version for an answer of {tokens} tokens")
    if not all(span["version"].isdecimal() for span in raw) or raw[-1]["end"] != tokens:
        raise EngineError(f"vLLM told versions {raw} for an answer of {tokens} tokens")
    return [(int(span["version"]), span["start"], span["end"]) for span in raw]


def check_spans(spans: list[Span], version: int, sure: int) -> None:
    """The first `sure` tokens must be of the version they were passed on with: no replacement had begun."""
    if sure and (spans[0][0] != version or spans[0][2] < sure):
        raise EngineError(f"vLLM sampled with versions {spans}, not with {version}: something else changed its weights")


def error_of(status: int, message: str) -> UpturnError:
    """Return vLLM's error as ours."""
    if status == 404:
        return NotFound(f"vLLM: {message}")
    if 400 <= status < 500:
        if "maximum context length" in message:
            return ContextTooLong(message)
        return BadRequest(f"vLLM: {message}")
    return EngineError(f"vLLM answered {status}: {message}", retry_after_s=RESTART_S)
