"""An engine that answers from a script, for tests, demos and development: deterministic, without model or torch.

It implements the whole engine protocol (step 3 of the straight line): streaming, versions, swaps in the middle of an
answer, logprobs. The weights of a version are a directory with `script.json`:

    {"answers": ["go north", "take the key"], "delay_s": 0.0}

The k-th assistant turn of a conversation gets `answers[k % len(answers)]`. Of the sampling parameters,
only `max_tokens`, `stop` and `stop_ids` have an effect; the others are accepted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from server.engines.options import ScriptedOptions
from server.engines.precision import Precision
from server.engines.protocol import ENGINE_FIELDS, FinishReason, Piece, SamplingParams, Weights
from server.errors import BadRequest, Conflict, ContextTooLong, EngineError, NotFound
from server.rendering.bytes_tokenizer import IM_END, IM_START, VOCABULARY_SIZE, BytesTokenizer

SCRIPT = "script.json"
_ASSISTANT = [IM_START, *b"assistant"]
_TOKENIZER = BytesTokenizer()
_UNLIKELY = -2.0


@dataclass(frozen=True, slots=True)
class Script:
    """The answers of one version."""

    answers: list[list[int]]
    """[N][K] token ids, including the end-of-turn token."""
    delay_s: float
    """Pause before each token."""
    digest: bytes

    def answer(self, turn: int) -> list[int]:
        """Return the answer in a turn of the assistant, counted from 0."""
        return self.answers[turn % len(self.answers)]

    def logprob(self, token_id: int, position: int) -> float:
        """Return the logprob of a token at a position: fixed by the script, and different for every script."""
        digest = hashlib.blake2b(self.digest + f"{token_id}@{position}".encode(), digest_size=4).digest()
        return -0.001 - 3.0 * int.from_bytes(digest) / 2**32


def read_script(directory: Path) -> Script:
    """Read a weights directory.

    Raises:
        BadRequest: `script.json` is missing or is not a script.
    """
    path = directory / SCRIPT
    try:
        raw = path.read_bytes()
        script = json.loads(raw)
        answers, delay_s = script["answers"], float(script.get("delay_s", 0.0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest(f"{path} is not a script: {error!r}", code="bad_weights") from error
    if not answers or not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise BadRequest(f"{path}: `answers` must be a non-empty list of strings", code="bad_weights")
    tokens = [[*_TOKENIZER.encode(answer), IM_END] for answer in answers]
    return Script(tokens, delay_s, hashlib.blake2b(raw, digest_size=16).digest())


def scripted_logprobs(directory: Path, token_ids: list[int]) -> list[float]:
    """Return [T-1] logprobs that the engine will report for a text once `directory` is loaded: a learner's probe."""
    script = read_script(directory)
    return [script.logprob(token_id, position) for position, token_id in enumerate(token_ids) if position]


class ScriptedEngine:
    """Answers from scripts."""

    adapters = True
    constrains = False
    fields = ENGINE_FIELDS
    check_tolerance = 1e-9
    precision: Precision = "float32"

    def __init__(self, options: ScriptedOptions) -> None:
        self.context_tokens = options.context_tokens
        self.versions: frozenset[int] = frozenset()
        self._scripts: dict[int, Script] = {}
        self._full_version = -1
        self._base_version = -1
        self._replaced: set[int] = set()
        """Versions that the present full weights have replaced."""
        self._running = False

    async def start(self, base: Weights, current: Weights) -> None:
        """Start serving `current`."""
        first = base if current.kind == "adapter" else current
        self._scripts = {first.version: read_script(first.path)}
        self._full_version, self._base_version = first.version, base.version
        self._running = True
        self._publish()
        if current.kind == "adapter":
            await self.load(current)

    async def close(self) -> None:
        """Stop; answers in progress fail."""
        self._running = False

    async def generate(
        self, version: int, prompt_ids: list[int], params: SamplingParams, *, whole: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """Sample one answer; each piece holds one token."""
        version, script = self._script(version)
        room = self.context_tokens - len(prompt_ids)
        if room < 1:
            raise ContextTooLong(f"the prompt has {len(prompt_ids)} tokens; the context is {self.context_tokens}")
        limit = min(params.max_tokens, room)
        headers = sum(prompt_ids[i : i + len(_ASSISTANT)] == _ASSISTANT for i in range(len(prompt_ids)))
        sampled: list[int] = []
        finish: FinishReason | None = None
        while finish is None:
            await asyncio.sleep(script.delay_s)
            if version in self._replaced or not self._running:
                version, script = self._script(version)
            answer = script.answer(max(headers - 1, 0))
            token_id = answer[len(sampled)] if len(sampled) < len(answer) else IM_END
            logprob = script.logprob(token_id, len(prompt_ids) + len(sampled))
            sampled.append(token_id)
            text = _TOKENIZER.decode(sampled) if params.stop else ""
            if token_id == IM_END or token_id in params.stop_ids or params.stops(text):
                finish = "stop"
            elif len(sampled) == limit:
                finish = "length"
            top = [_alternatives(token_id, logprob, params.top_logprobs)] if params.top_logprobs else None
            yield Piece([token_id], [logprob], version, finish, top)

    async def score(self, version: int, token_ids: list[int]) -> list[float]:
        """Return [T-1] logprobs of each token after the first."""
        if version not in self.versions:
            raise NotFound(f"version {version} is not loaded")
        _, script = self._script(version)
        if len(token_ids) > self.context_tokens:
            raise ContextTooLong(f"the text has {len(token_ids)} tokens; the context is {self.context_tokens}")
        return [script.logprob(token_id, position) for position, token_id in enumerate(token_ids) if position]

    async def score_top(self, version: int, token_ids: list[int], count: int) -> list[dict[int, float]]:
        """Score all tokens, with made-up alternatives."""
        scores = await self.score(version, token_ids)
        return [_alternatives(token_id, score, count) for token_id, score in zip(token_ids[1:], scores, strict=True)]

    async def spot_check(self, version: int, token_ids: list[int], last: int | None = None) -> list[float]:
        """Score all tokens."""
        return await self.score(version, token_ids)

    async def load(self, weights: Weights) -> None:
        """Replace the script, or add the script of an adapter."""
        script = read_script(weights.path)
        if weights.kind == "adapter":
            if self._full_version != self._base_version:
                raise Conflict("an adapter needs the base weights, which full weights have replaced")
            self._scripts[weights.version] = script
        else:
            self._replaced = (self._replaced | self.versions) - {weights.version}
            self._scripts, self._full_version = {weights.version: script}, weights.version
        self._publish()

    async def unload(self, version: int) -> None:
        """Unload an adapter."""
        if version != self._full_version:
            self._scripts.pop(version, None)
            self._publish()

    @property
    def available(self) -> bool:
        """Whether the engine was started and not yet closed."""
        return self._running

    async def healthy(self) -> bool:
        """Return `available`: a script cannot fail."""
        return self._running

    def _publish(self) -> None:
        self.versions = frozenset(self._scripts)

    def _script(self, version: int) -> tuple[int, Script]:
        """Return the version that answers a request for `version` now, and its script."""
        if not self._running:
            raise EngineError("the scripted engine is not running")
        if version in self._replaced:
            version = self._full_version
        if version not in self._scripts:
            raise NotFound(f"version {version} is not loaded")
        return version, self._scripts[version]


def _alternatives(token_id: int, logprob: float, count: int) -> dict[int, float]:
    """Return the sampled token, then the `count` likeliest, made up: an unlikely token has two that are likelier."""
    likelier = 2.5 if logprob < _UNLIKELY else 0.0
    others = {(token_id + step) % VOCABULARY_SIZE: logprob + likelier - step for step in range(1, count + 1)}
    best = sorted({token_id: logprob, **others}.items(), key=lambda pair: -pair[1])
    return {token_id: logprob, **dict(best[:count])}
