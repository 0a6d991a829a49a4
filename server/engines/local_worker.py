"""The thread of the local engine: computes one token of each answer in turn, and changes weights between tokens.

Only this thread uses torch, which is imported on it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from server.engines.local_model import LocalModel
from server.engines.options import LocalOptions
from server.engines.precision import Choice
from server.engines.protocol import FinishReason, Piece, SamplingParams, Weights
from server.errors import EngineError, UpturnError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Answer:
    """An answer being sampled."""

    def __init__(
        self,
        version: int,
        prompt_ids: list[int],
        params: SamplingParams,
        limit: int,
        emit: Callable[[Piece | UpturnError], object],
    ) -> None:
        self.version, self.params, self.limit, self.emit = version, params, limit, emit
        self.ids = list(prompt_ids)
        self.prompt_tokens = len(prompt_ids)
        self.cache: Any = None
        """Keys and values of all ids except the last; None: compute them again."""
        self.generator: torch.Generator | None = None
        self.wanted = True
        """A reader still waits for the answer."""


class Worker:
    """Owns the thread and the model. Other threads may call only `start`, `stop`, `call` and `running`."""

    def __init__(self, options: LocalOptions) -> None:
        self.answers: list[Answer] = []
        self.retired: set[int] = set()
        """Adapters to delete as soon as no answer uses them."""
        self._options = options
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="local-engine", daemon=True)
        self._stopping = False
        self._model = LocalModel(options)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it; answers in progress fail."""
        if self._thread.is_alive():
            self._stopping = True
            self._jobs.put(None)
            self._thread.join()

    def running(self) -> bool:
        """Return whether the thread accepts jobs."""
        return self._thread.is_alive() and not self._stopping

    async def call(self, job: Callable[[], T]) -> T:
        """Run a job on the thread, between two tokens."""
        if not self.running():
            raise EngineError("the local engine is not running")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        self._jobs.put(work)
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        import torch

        if self._options.threads is not None:
            torch.set_num_threads(self._options.threads)
        with torch.inference_mode():
            while self._do_jobs():
                self.answers = [answer for answer in self.answers if answer.wanted]
                for answer in list(self.answers):
                    self._sample_next(answer)
                self._delete_retired()
        for answer in self.answers:
            self._emit(answer, EngineError("the local engine was stopped"))

    def _do_jobs(self) -> bool:
        """Run the queued jobs, or wait for one if there is nothing to sample; return False to end the thread."""
        try:
            while True:
                job = self._jobs.get(block=not self.answers)
                if job is None:
                    return False
                job()
        except queue.Empty:
            return True

    # ---------------------------------------------------------------------------------------- computing

    def score(self, version: int, token_ids: list[int]) -> list[float]:
        """Return [T-1] logprobs of each token after the first."""
        import torch

        logprobs = self._logprobs(version, token_ids)
        scores: list[float] = logprobs.gather(-1, torch.tensor(token_ids[1:], device=logprobs.device)[:, None])[
            :, 0
        ].tolist()
        return scores

    def score_top(self, version: int, token_ids: list[int], count: int) -> list[dict[int, float]]:
        """Return [T-1] logprobs by token id: of each token after the first, and of the `count` likeliest."""
        logprobs = self._logprobs(version, token_ids)
        best = logprobs.topk(min(count, logprobs.shape[-1]), dim=-1)
        own = logprobs[range(len(logprobs)), token_ids[1:]].tolist()
        return [
            {token_id: score, **dict(zip(ids, values, strict=True))}
            for token_id, score, ids, values in zip(
                token_ids[1:], own, best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]

    def _logprobs(self, version: int, token_ids: list[int]) -> torch.Tensor:
        """Return [T-1, V] logprobs of what may follow each token but the last."""
        import torch

        ids = torch.tensor([token_ids], device=self._model.device)
        logits = self._model.for_version(version)(ids, use_cache=False).logits[0, :-1].float()
        return torch.log_softmax(logits, -1)

    def _sample_next(self, answer: Answer) -> None:
        try:
            piece = self._sample(answer)
        except Exception as error:
            logger.exception("the local engine failed")
            self._emit(answer, EngineError(f"the local engine failed: {error!r}"))
            return
        self._emit(answer, piece)

    def _emit(self, answer: Answer, item: Piece | UpturnError) -> None:
        if isinstance(item, UpturnError) or item.finish_reason is not None:
            answer.wanted = False
        try:
            answer.emit(item)
        except RuntimeError:  # The reader's event loop has ended.
            answer.wanted = False

    def _sample(self, answer: Answer) -> Piece:
        import torch

        fresh = answer.ids if answer.cache is None else answer.ids[-1:]
        output = self._model.for_version(answer.version)(
            torch.tensor([fresh], device=self._model.device),
            past_key_values=answer.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        answer.cache = output.past_key_values
        params = answer.params
        logprobs = sampling_logprobs(output.logits[0, -1], params).cpu()
        if params.temperature == 0:
            token_id = int(logprobs.argmax())
        else:
            if answer.generator is None:
                answer.generator = torch.Generator()
                answer.generator.seed() if params.seed is None else answer.generator.manual_seed(params.seed)
            token_id = int(torch.multinomial(logprobs.exp(), 1, generator=answer.generator))
        answer.ids.append(token_id)
        top = None
        if params.top_logprobs:
            best = logprobs.topk(min(params.top_logprobs, len(logprobs)))
            listed = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            top = [{token_id: float(logprobs[token_id]), **{i: v for i, v in listed if v > -float("inf")}}]
        return Piece([token_id], [float(logprobs[token_id])], answer.version, self._finish(answer, token_id), top)

    def _finish(self, answer: Answer, token_id: int) -> FinishReason | None:
        params, sampled = answer.params, answer.ids[answer.prompt_tokens :]
        if token_id in params.stop_ids or (token_id in self._model.stop_ids and not params.extra.get("ignore_eos")):
            return "stop"
        if params.stop:
            # A token is at least one byte, so this tail contains every match that ends in the newest token.
            tail = sampled[-max(len(stop.encode()) for stop in params.stop) - 4 :]
            text = self._model.tokenizer.decode(tail, skip_special_tokens=True)
            if params.stops(text):
                return "stop"
        return "length" if len(sampled) >= answer.limit else None

    # ------------------------------------------------------------------------------------------ weights

    def open_model(self, base: Weights) -> tuple[int, Choice]:
        """Load the base; return its context in tokens and its compute precision."""
        return self._model.open(base)

    def replace(self, weights: Weights) -> None:
        """Replace the full weights; answers in progress continue with the new ones."""
        self._model.replace(weights)
        for answer in self.answers:
            answer.version, answer.cache = weights.version, None

    def add_adapter(self, weights: Weights) -> None:
        """Add an adapter to the base."""
        self._model.add_adapter(weights)

    def _delete_retired(self) -> None:
        for version in self.retired - {answer.version for answer in self.answers}:
            self.retired.discard(version)
            self._model.delete_adapter(version)


def sampling_logprobs(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Return [V] logprobs of the distribution sampled from: tempered, then cut by top_k and top_p.

    Temperature 0 takes the likeliest token and reports its untempered logprob, as vLLM does.
    """
    import torch

    logits = logits.float()
    if params.temperature == 0:
        return torch.log_softmax(logits, -1)
    logits = logits / params.temperature
    if 0 < params.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(params.top_k).values[-1], -float("inf"))
    if params.top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = torch.softmax(ordered, -1).cumsum(-1) - torch.softmax(ordered, -1)
        logits = logits.masked_fill(
            torch.zeros_like(logits).bool().scatter(0, order, before >= params.top_p), -float("inf")
        )
    return torch.log_softmax(logits, -1)
