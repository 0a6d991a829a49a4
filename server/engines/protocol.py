"""The engine protocol: tokens in; tokens with logprobs and versions out (step 3 of the straight line).

An engine samples from loaded weights. It does not know messages, episodes or the database. The three implementations
`vllm/engine.py`, `local.py` and `scripted.py` pass the same contract test.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from server.engines.precision import Precision
from server.errors import BadRequest

FinishReason = Literal["stop", "length", "abort"]
ENGINE_FIELDS = frozenset(
    {
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "min_p",
        "min_tokens",
        "logit_bias",
        "ignore_eos",
        "bad_words",
        "allowed_token_ids",
    }
)
"""Further sampling fields that an engine may support. Each concerns the tokens of its own answer and nothing else."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one answer."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer. The tokens that matched are part of the answer's ids."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end the answer, in addition to the model's own; part of the answer's ids."""
    seed: int | None = None
    top_logprobs: int = 0
    """How many tokens to report for each token: the sampled one, and the likeliest."""
    json_schema: dict[str, Any] | None = None
    """Constrains the answer to JSON with this schema; {} is any JSON object."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further sampling fields of the request, all among the engine's `fields`."""

    def __post_init__(self) -> None:
        """Refuse what engines would take in different ways.

        Raises:
            BadRequest: a stop string is empty.
        """
        if "" in self.stop:
            raise BadRequest("stop: an empty string cannot end an answer", param="stop")

    def stops(self, text: str) -> bool:
        """Whether a part of an answer, which may begin and end within a character, contains a stop string."""
        whole = text.strip("\N{REPLACEMENT CHARACTER}")  # At its edges, it may stand for a part of a character.
        return any(stop in whole for stop in self.stop)


Span = tuple[int, int, int]
"""A version, the index of its first token in the answer, and one past the index of its last."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of an answer, all sampled by one policy version."""

    token_ids: list[int]
    """[K] sampled ids, including the end-of-turn token."""
    logprobs: list[float]
    """[K] natural logarithms of the probabilities in the distribution sampled from (tempered)."""
    version: int
    finish_reason: FinishReason | None = None
    """Set on the last piece only."""
    top_logprobs: list[dict[int, float]] | None = None
    """[K] alternatives by token id, if requested."""
    spans: list[Span] | None = None
    """Set on the last piece if weights were replaced meanwhile: the versions of the whole answer. The versions of the
    earlier pieces were a guess for tokens that arrived after the replacement had begun."""


def spans_of(pieces: Sequence[Piece]) -> list[Span]:
    """Return which version sampled which tokens of an answer; [] for an answer without tokens."""
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
    """A directory: a whole model (`base`, `full`), or a LoRA adapter over the base."""


class Engine(Protocol):
    """Samples tokens from loaded weights.

    Every method raises `server.errors.EngineError`, with the reason, if the engine has failed.
    """

    context_tokens: int
    """Maximum length of prompt plus answer, in tokens."""
    adapters: bool
    """The engine holds LoRA adapters next to the base weights."""
    constrains: bool
    """The engine supports constrained decoding (`SamplingParams.json_schema`)."""
    fields: frozenset[str]
    """The `ENGINE_FIELDS` that the engine supports in `SamplingParams.extra`."""

    @property
    def precision(self) -> Precision:
        """Data type of the computation, in which the learner must compute too; final once the engine has started."""

    @property
    def check_tolerance(self) -> float:
        """Largest mean absolute logprob difference from the learner, in nats, that this engine's numerics explain."""

    @property
    def versions(self) -> frozenset[int]:
        """Versions that `generate` can serve now; exactly one with full weights."""

    @property
    def available(self) -> bool:
        """Whether, to the engine's knowledge, it can answer now; costs nothing."""

    async def start(self, base: Weights, current: Weights) -> None:
        """Start serving `current`: the base itself, full weights, or an adapter over `base`."""

    async def close(self) -> None:
        """Stop the engine and every process it started."""

    def generate(
        self, version: int, prompt_ids: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Sample one answer; the last piece has a finish reason.

        With full weights, `version` is the version at the answer's beginning. After a swap in the middle the pieces
        carry the new version, and a request for a version that was just replaced is answered by its successor.
        Closing the iterator early (`contextlib.aclosing`) frees the engine's work.

        Args:
            version: the policy version.
            prompt_ids: [P] the prompt.
            params: how to sample.
            whole: nobody reads the answer before its end, so it may come in one piece.

        Raises:
            ContextTooLong: no token fits after the prompt. Where fewer than `max_tokens` fit, the answer ends with
                `length` instead.
            NotFound: the version was never loaded, or is an unloaded adapter.
        """

    async def score(self, version: int, token_ids: list[int]) -> list[float]:
        """Return [T-1] logprobs of each token after the first, at temperature 1, without any cached state."""

    async def score_top(self, version: int, token_ids: list[int], count: int) -> list[dict[int, float]]:
        """Return [T-1] logprobs by token id: of each token after the first, and of the `count` likeliest at its place.

        Raises:
            BadRequest: the engine cannot do that with the weights that it holds.
        """

    async def spot_check(self, version: int, token_ids: list[int], last: int | None = None) -> Sequence[float | None]:
        """Return [T-1] logprobs as `score` does, but cheap enough to run while other requests are answered.

        An engine may leave tokens out; their entries are None.

        Args:
            version: the policy version.
            token_ids: [T] the text.
            last: number of tokens at the end that matter; None: all.
        """

    async def load(self, weights: Weights) -> None:
        """Load a validated version: full weights replace the present ones, an adapter joins them."""

    async def unload(self, version: int) -> None:
        """Unload an adapter. Unknown versions are ignored."""

    async def healthy(self) -> bool:
        """Ask the engine whether a request sent now would be answered."""
