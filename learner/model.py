"""The policy as the learner holds it: weights, logprobs of trained tokens, and weights swapped for a moment.

Full training keeps float32 master weights and computes in bfloat16 where the base's own dtype is bfloat16; a float32
base stays float32 throughout. An adapter (LoRA, arXiv 2106.09685) is float32 on a frozen base in the base's own
dtype. The head runs only at nodes that train something (`head.py`), attention only over ancestors (`attention.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from learner import attention
from learner.checks import check_model
from learner.chosen_logprobs import chosen_logprobs
from learner.packing import Row, RowLimits
from learner.parallel import distributed
from learner.parallel.sharding import part, spread_like
from upturn.wire import RunConfig


class Logprobs(NamedTuple):
    """What a forward pass says about the trained tokens of a row."""

    values: Tensor
    """[M] float32 logprobs of the targets at their temperatures, with gradient."""
    entropy: Tensor
    """[M] entropy in nats of each distribution that predicted a target; no gradient."""
    state_values: Tensor | None = None
    """[M] float32 the value before each target, with gradient; None without a value head."""


class Policy:
    """A causal language model that can be trained and published.

    Args:
        model: a transformers causal model, or a peft model around one.
        directory: the full weights it was loaded from: source of config and tokenizer, base of an adapter.
        dtype: the base's own dtype: what is published and, for bfloat16, computed in.
    """

    def __init__(self, model: Any, directory: Path, dtype: torch.dtype) -> None:
        self.model = model
        self.directory = directory
        self.dtype = dtype
        causal = model.get_base_model() if self.is_adapter else model
        if set(getattr(causal.config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
            raise ValueError(f"{directory}: layers other than full attention cannot be packed into tries")
        causal.set_attn_implementation(attention.NAME)
        self._decoder = causal.get_decoder()
        self._head = causal.get_output_embeddings()
        self.value_head: torch.nn.Linear | None = None
        """PPO's: reads the hidden state that predicts a token. Trained and kept in checkpoints, never published."""
        self._pass: Callable[[Row], Logprobs] = self.compute

    @property
    def layers(self) -> list[torch.nn.Module]:
        """The decoder's layers, first to last."""
        return list(self._decoder.layers)

    def passes_through(self, whole: Callable[[Row], Logprobs]) -> None:
        """Let `whole` call `compute`: it gathers weights that lie on several processes."""
        self._pass = whole

    def add_value_head(self) -> None:
        """Give the policy a value head that says 0 everywhere."""
        head = torch.nn.Linear(self._decoder.config.hidden_size, 1, device=self.device, dtype=torch.float32)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        self.value_head = head

    def value_parameters(self) -> list[Tensor]:
        """Return the value head's parameters; none without one."""
        return [] if self.value_head is None else list(self.value_head.parameters())

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def adapter_is_neutral(self) -> bool:
        """True where the adapter changes nothing yet, as a new one does."""
        second = [p for name, p in self.trainable().items() if "lora_B" in name]
        return self.is_adapter and not distributed.any_of(any(bool(part(p).any()) for p in second))

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Compute with the base alone for a moment."""
        with self.model.disable_adapter():
            yield

    @property
    def is_adapter(self) -> bool:
        """True where only an adapter is trained and published."""
        return isinstance(self.model, PeftModel)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def trainable(self) -> dict[str, Tensor]:
        """Return the trained parameters by name; a tied parameter once."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def row_limits(self, max_tokens: int | None) -> RowLimits:
        """Return when a row is full; None is what suits the device."""
        return RowLimits(max_tokens or (4096 if self.device.type == "cuda" else 2048))

    def logprobs(self, row: Row) -> Logprobs:
        """Return the logprobs of a row's M trained tokens: log_softmax(logits / temperature) in float32.

        Args:
            row: N nodes, on any device.
        """
        return self._pass(row.to(self.device))

    def compute(self, row: Row) -> Logprobs:
        """Return `logprobs` where the whole weights are on the row's device."""
        trie = attention.trie_of(row.end)
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)
        with mixed:
            hidden = self._decoder(
                input_ids=row.token_ids[None],
                position_ids=row.depth[None],
                use_cache=False,
                trie=trie,
            ).last_hidden_state[0, row.parent]
            if trie is not None and not trie.used:
                raise ValueError(f"{self.directory}: layers do not pass on what a token sees: tries cannot be packed")
            values, entropy = chosen_logprobs(self._head, hidden, row.target, row.temperature, self.vocabulary)
        states = None if self.value_head is None else self.value_head(hidden.float())[:, 0]
        return Logprobs(values, entropy, states)

    @contextlib.contextmanager
    def holding(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Compute with other trained weights for a moment: the reference's, or those about to be published.

        Args:
            weights: a tensor for each name in `trainable()`.
        """
        if distributed.count() > 1:  # FSDP gathers from its own views of the weights, so they are written over
            own = self.snapshot()
            self.load_weights(weights)
            try:
                yield
            finally:
                self.load_weights(own)
            return
        parameters = self.trainable()
        own = {name: p.data for name, p in parameters.items()}
        for name, p in parameters.items():
            p.data = weights[name].to(device=p.device, dtype=p.dtype)
        try:
            yield
        finally:
            for name, p in parameters.items():
                p.data = own[name]

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the trained weights."""
        return {name: p.detach().clone() for name, p in self.trainable().items()}

    def rounded(self) -> dict[str, Tensor]:
        """Return a copy of the trained weights in the published dtype.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        weights = {name: p.detach().to(self.dtype, copy=True) for name, p in self.trainable().items()}
        here = [name for name, weight in weights.items() if not torch.isfinite(part(weight)).all()]
        broken = sorted({name for names in distributed.gathered(here) for name in names})
        if broken:
            raise FloatingPointError(f"weights that are not finite are never published: {', '.join(broken[:5])}")
        return weights

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Overwrite the trained weights; the names must be exactly those of `trainable()`."""
        parameters = self.trainable()
        if set(weights) != set(parameters):
            raise ValueError(f"weights do not fit the model: {sorted(set(weights) ^ set(parameters))[:5]}")
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(spread_like(weights[name], p))

    def load_published(self, directory: Path) -> None:
        """Overwrite the trained weights with a version that `publish` wrote."""
        if self.is_adapter:
            stored = load_file(directory / "adapter_model.safetensors")
            with torch.no_grad():
                for name, p in get_peft_model_state_dict(self.model).items():
                    p.copy_(spread_like(stored[name], p))
            return
        stored = load_file(directory / "model.safetensors")
        self.load_weights({name: stored[name] for name in self.trainable()})

    def published_weights(self, directory: Path) -> dict[str, Tensor]:
        """Return a published version's weights under the names of `trainable()`; the policy keeps its own."""
        own = self.snapshot()
        try:
            self.load_published(directory)
            return self.snapshot()
        finally:
            self.load_weights(own)


def base_dtype(directory: Path) -> torch.dtype:
    """Return the dtype that a directory's config declares; float32 where it declares none.

    Raises:
        ValueError: neither bfloat16 nor float32.
    """
    dtype = getattr(AutoConfig.from_pretrained(directory), "dtype", None) or torch.float32
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    if dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"{directory} is {dtype}; bfloat16 and float32 can be trained")
    return dtype


def load_policy(directory: Path, adapter: Path | None, config: RunConfig, device: torch.device) -> Policy:
    """Load the weights that a run begins with.

    Args:
        directory: full weights.
        adapter: an adapter on them; trained on where the run trains adapters, else merged.
        config: the run's; `kind`, `lora_rank`, `lora_alpha` and `seed` matter here.
        device: where to train.
    """
    check_model(directory, config, device)
    torch.manual_seed(config.seed)
    dtype = base_dtype(directory)
    held = torch.float32 if config.kind == "full" else dtype
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=held, attn_implementation="sdpa")
    if config.kind == "full" and adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    elif adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    elif config.kind == "adapter":
        model = with_new_adapter(model, directory, config)
    if config.kind == "full":
        model.requires_grad_(True)
    # Several processes take their parts from the CPU's copy: the whole might not fit one device.
    return Policy(model.to(device if distributed.count() == 1 else "cpu").train(), directory, dtype)


def with_new_adapter(model: Any, directory: Path, config: RunConfig) -> PeftModel:
    """Return a model with an adapter that changes nothing yet on all linear layers but the head."""
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=cast(int, config.lora_alpha),  # peft multiplies by it; its annotation is too narrow
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(directory),
    )
    return get_peft_model(model, lora)
