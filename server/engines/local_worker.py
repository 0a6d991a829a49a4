"""The thread of the local engine: computes one token of each answer in turn, and changes weights between tokens.

Only this module of the local engine uses torch, which it imports on the thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import json
import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from server.engines.options import LocalOptions
from server.engines.protocol import FinishReason, Piece, SamplingParams, Weights
from server.errors import BadRequest, EngineError, UpturnError
from server.models.weights import LM_HEAD, read_entries, tied_embedding

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
        """Somebody still reads the answer."""


class Worker:
    """Owns the model. Other threads may call only `start`, `stop`, `run` and `running`."""

    def __init__(self, options: LocalOptions) -> None:
        self.answers: list[Answer] = []
        self.retired: set[int] = set()
        """Adapters to delete as soon as no answer uses them."""
        self._options = options
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="local-engine", daemon=True)
        self._stopping = False
        self._model: Any = None
        self._peft: Any = None
        self._full_version = -1
        self._active: int | None = None
        self._adapters: set[int] = set()
        self._tokenizer: Any = None
        self._stop_ids: frozenset[int] = frozenset()

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

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job on the thread, between two tokens."""
        if not self.running():
            raise EngineError("the local engine is not running")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def work() -> None:
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
                    self._step(answer)
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

        ids = torch.tensor([token_ids], device=self._model.device)
        logits = self._for_version(version)(ids, use_cache=False).logits[0, :-1].float()
        logprobs = torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None])[:, 0]
        scores: list[float] = logprobs.tolist()
        return scores

    def _step(self, answer: Answer) -> None:
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
        output = self._for_version(answer.version)(
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
        if token_id in params.stop_ids or (token_id in self._stop_ids and not params.extra.get("ignore_eos")):
            return "stop"
        if params.stop:
            # A token is at least one byte, so this tail contains every match that ends in the newest token.
            tail = sampled[-max(len(stop.encode()) for stop in params.stop) - 4 :]
            text = self._tokenizer.decode(tail, skip_special_tokens=True)
            if any(stop in text for stop in params.stop):
                return "stop"
        return "length" if len(sampled) >= answer.limit else None

    def _for_version(self, version: int) -> Any:
        """Return the model with the version's adapter enabled, or with all adapters disabled."""
        if self._peft is None:
            return self._model
        if version != self._active:
            if version in self._adapters:
                self._peft.base_model.enable_adapter_layers()
                self._peft.set_adapter(_name(version), inference_mode=True)
            else:
                self._peft.base_model.disable_adapter_layers()
            self._active = version
        return self._peft

    # ------------------------------------------------------------------------------------------ weights

    def open_model(self, base: Weights) -> tuple[int, bool]:
        """Load the base; return its context in tokens and whether it computes in float32."""
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        dtype = self._options.dtype if self._options.dtype == "auto" else getattr(torch, self._options.dtype)
        device = self._options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype)
            self._model = model.to(device).eval()
            self._tokenizer = Tokenizer.from_file(str(base.path / "tokenizer.json"))
        except (OSError, ValueError) as error:
            raise EngineError(f"{base.path} cannot be loaded: {error}") from error
        self._model.requires_grad_(False)
        self._full_version = base.version
        self._stop_ids = _stop_ids(base.path)
        longest = int(self._model.config.get_text_config().max_position_embeddings)
        return min(self._options.context_tokens or longest, longest), self._model.dtype == torch.float32

    def replace(self, weights: Weights) -> None:
        """Replace the full weights in place; a wrong name or shape leaves them unchanged."""
        from safetensors.torch import load_file

        entries = read_entries(weights.path)
        files = sorted({entry.file for entry in entries.values()})
        state = {name: tensor for file in files for name, tensor in load_file(file).items()}
        if self._peft is not None:
            self._model, self._peft = self._peft.unload(), None
            self._adapters.clear()
        own = self._model.state_dict()
        if (tied := tied_embedding(entries)) is not None and LM_HEAD in own:
            state[LM_HEAD] = state[tied]
        wrong = sorted(set(own) ^ set(state)) or [name for name in own if own[name].shape != state[name].shape]
        if wrong:
            raise BadRequest(
                f"{weights.path}: {wrong[0]} is missing, unknown, or has a different shape", code="bad_weights"
            )
        self._model.load_state_dict(state)
        self._full_version, self._active = weights.version, None
        for answer in self.answers:
            answer.version, answer.cache = weights.version, None

    def add_adapter(self, weights: Weights) -> None:
        """Add an adapter to the base."""
        from peft import PeftModel

        name = _name(weights.version)
        if self._peft is None:
            peft: Any = PeftModel  # Its annotations are narrower than its real types.
            self._peft = peft.from_pretrained(self._model, str(weights.path), adapter_name=name)
            self._peft.eval()
        else:
            self._peft.load_adapter(str(weights.path), adapter_name=name)
        self._adapters.add(weights.version)
        self._active = None

    def _delete_retired(self) -> None:
        for version in self.retired - {answer.version for answer in self.answers}:
            self.retired.discard(version)
            if version not in self._adapters:
                continue
            self._adapters.discard(version)
            self._active = None
            if self._adapters:
                self._for_version(next(iter(self._adapters)))
                self._peft.delete_adapter(_name(version))
            else:
                self._model, self._peft = self._peft.unload(), None


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


def _stop_ids(directory: Path) -> frozenset[int]:
    """Return the tokens that end an answer, from both files that can list them."""
    found: list[int | list[int] | None] = []
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        if path.is_file():
            found.append(json.loads(path.read_text()).get("eos_token_id"))
    return frozenset(
        itertools.chain.from_iterable(ids if isinstance(ids, list) else [] if ids is None else [ids] for ids in found)
    )


def _name(version: int) -> str:
    return f"v{version}"
