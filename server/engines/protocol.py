"""The engine protocol: tokens in, tokens with logprobs and versions out (step 3 of the straight line).

An engine samples from loaded weights. It knows nothing of messages, episodes or the database. Three implementations
stand beside this file: `vllm.py`, `local.py` and `scripted.py`; one contract test runs against all of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one answer."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer; the tokens that matched are part of the answer's ids."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end the answer beside the model's own, as its family has them; part of the answer's ids too."""
    seed: int | None = None
    top_logprobs: int = 0
    """How many alternatives per token to report."""
    json_schema: dict[str, Any] | None = None
    """The answer has to be JSON of this schema; an empty one is any JSON object."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Engine-specific sampling fields, passed on as they are."""


Span = tuple[int, int, int]
"""A version, its first token, and one past its last, as indexes of an answer."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of an answer, all sampled by one policy version."""

    token_ids: list[int]
    """[K] the sampled ids, the end-of-turn token included."""
    logprobs: list[float]
    """[K] natural logarithm, of the distribution that was really sampled from (tempered)."""
    version: int
    finish_reason: FinishReason | None = None
    """Set on the last piece only."""
    top_logprobs: list[dict[int, float]] | None = None
    """[K] alternatives by token id, when asked for."""
    spans: list[Span] | None = None
    """On the last piece, where weights were replaced meanwhile: the versions of the whole answer. What pieces said
    before was a guess for tokens that arrived after the replacement had begun."""


def spans_of(pieces: Sequence[Piece]) -> list[Span]:
    """Return which version sampled which tokens of an answer; none for one without tokens."""
    if pieces and pieces[-1].spans is not None:
        return [span for span in pieces[-1].spans if span[1] < span[2]]
    spans: list[Span] = []
    end = 0
    for piece in pieces:
        if piece.token_ids:
            first, end = end, end + len(piece.token_ids)
            if spans and spans[-1][0] == piece.version:
                first = spans.pop()[1]
            spans.append((piece.version, first, end))
    return spans


@dataclass(frozen=True, slots=True)
class Weights:
    """A servable set of weights on disk."""

    version: int
    kind: Literal["base", "full", "adapter"]
    path: Path
    """A directory: a whole model (`base`, `full`) or a LoRA adapter over the base."""


class Engine(Protocol):
    """Samples tokens from loaded weights.

    Every method raises `server.errors.EngineError` where the engine has failed, with the reason.
    """

    context_tokens: int
    """Longest prompt plus answer."""
    check_tolerance: float
    """Largest mean absolute logprob difference, in nats, from the learner's own that this engine's numerics explain."""
    versions: frozenset[int]
    """Versions that `generate` can serve now. With full weights exactly one."""
    adapters: bool
    """The engine can hold LoRA adapters beside the base weights."""
    constrains: bool
    """The engine can hold an answer to a JSON schema."""

    @property
    def available(self) -> bool:
        """Whether, as far as the engine knows, it can answer now; costs nothing."""

    async def start(self, base: Weights, current: Weights) -> None:
        """Start serving `current` (the base itself, full weights, or an adapter over `base`)."""

    async def close(self) -> None:
        """Stop, leaving no process behind."""

    def generate(
        self, version: int, prompt_ids: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Sample one answer; the last piece has a finish reason. `whole`: nobody looks before the end.

        With full weights, `version` is where the answer begins: after a swap in the middle the pieces carry the new
        one, and a version that was replaced a moment ago is answered by the one that replaced it. Closing the iterator
        early (`contextlib.aclosing`) frees the engine's work.

        Raises:
            ContextTooLong: no token fits after the prompt. A smaller room than `max_tokens` ends with `length`.
            NotFound: the version was never loaded, or is an adapter that was unloaded.
        """

    async def score(self, version: int, token_ids: list[int]) -> list[float]:
        """Return [T-1] logprobs of each token after the first, at temperature 1, with no cached state."""

    async def spot_check(self, version: int, token_ids: list[int], last: int | None = None) -> Sequence[float | None]:
        """Return [T-1] the same while others are answered; None for what an engine does not look at then.

        `last` says how many tokens at the end matter; None is all.
        """

    async def load(self, weights: Weights) -> None:
        """Load a validated version: full weights replace the present ones, an adapter joins them."""

    async def unload(self, version: int) -> None:
        """Forget an adapter. Unknown versions are ignored."""

    async def healthy(self) -> bool:
        """Whether a request sent now would be answered; asks the engine."""
