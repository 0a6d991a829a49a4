"""The policy as the learner holds it: its weights, and the logprobs of trained tokens.

The policy computes in the engine's precision, which the server tells: bfloat16 or float32. Full training keeps float32
master weights. An adapter (LoRA, arXiv 2106.09685) is float32 on a frozen base in the compute precision. The output
layer runs only at nodes that predict a trained token (`chosen_logprobs.py`), attention only over ancestors
(`attention.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from learner.model import attention
from learner.model.chosen_logprobs import chosen_logprobs
from learner.packing import Row, RowLimits
from learner.parallel import distributed
from learner.parallel.sharding import part, shard, spread_like


class Logprobs(NamedTuple):
    """What a forward pass computes for the M trained tokens of a row."""

    values: Tensor
    """[M] float32 logprobs of the targets at their temperatures, with gradient."""
    entropy: Tensor
    """[M] entropy in nats of each distribution that predicted a target, at its temperature, with gradient."""
    state_values: Tensor | None = None
    """[M] float32 the value before each target, with gradient; None without a value head."""


class Policy:
    """A causal language model that can be trained and published.

    Args:
        model: a transformers causal model, or a peft model around one.
        directory: the full weights it was loaded from: source of config and tokenizer, base of an adapter.
        dtype: data type of published weights.
        precision: data type of the computation; by default `dtype`.

    Raises:
        ValueError: the model has layers with sliding windows or another kind of attention.
    """

    def __init__(self, model: Any, directory: Path, dtype: torch.dtype, precision: torch.dtype | None = None) -> None:
        self.model = model
        self.directory = directory
        self.dtype = dtype
        self.precision = precision or dtype
        causal = model.get_base_model() if self.is_adapter else model
        if set(getattr(causal.config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
            raise ValueError(f"{directory}: only layers with full attention can be packed into tries")
        causal.set_attn_implementation(attention.NAME)
        self._decoder = causal.get_decoder()
        self._output_layer = causal.get_output_embeddings()
        self.value_head: nn.Linear | None = None
        """PPO's: reads the hidden state that predicts a token. Trained and checkpointed, never published."""
        self._pass: Callable[[Row], Logprobs] = self.compute

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder's layers, first to last."""
        return list(self._decoder.layers)

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model knows."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    @property
    def is_adapter(self) -> bool:
        """True if only an adapter is trained and published."""
        return isinstance(self.model, PeftModel)

    @property
    def adapter_is_neutral(self) -> bool:
        """True if the adapter changes nothing yet, like every new adapter."""
        second = [p for name, p in self.trainable().items() if "lora_B" in name]
        return self.is_adapter and not distributed.any_of(any(bool(part(p).any()) for p in second))

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Compute with the base alone inside the `with` block."""
        with self.model.disable_adapter():
            yield

    def add_value_head(self) -> None:
        """Add a value head that predicts 0 everywhere."""
        head = nn.Linear(self._decoder.config.hidden_size, 1, device=self.device, dtype=torch.float32)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.value_head = head

    def value_parameters(self) -> list[Tensor]:
        """Return the value head's parameters; an empty list without a value head."""
        return [] if self.value_head is None else list(self.value_head.parameters())

    def shard(self) -> None:
        """Leave each process its part of the weights; replaces the parameters. Does nothing in one process."""
        if distributed.count() > 1:
            self._pass = shard(_Whole(self), self.layers)

    def trainable(self) -> dict[str, Tensor]:
        """Return the trained parameters by name; a tied parameter once."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def row_limits(self, max_tokens: int | None) -> RowLimits:
        """Return the limits of a packed row; by default 4096 nodes on CUDA, 2048 on a CPU."""
        return RowLimits(max_tokens or (4096 if self.device.type == "cuda" else 2048))

    def logprobs(self, row: Row) -> Logprobs:
        """Return the logprobs of a row's M trained tokens: log_softmax(logits / temperature) in float32.

        Args:
            row: N nodes, on any device.
        """
        return self._pass(row.to(self.device))

    def compute(self, row: Row) -> Logprobs:
        """Return `logprobs` of a row on the device of the weights, which must be whole there.

        Raises:
            ValueError: the model's layers do not pass the trie on to attention.
        """
        trie = attention.trie_of(row.end)
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)
        with mixed:
            hidden = self._decoder(
                input_ids=row.token_ids[None],
                position_ids=row.depth[None],
                use_cache=False,
                trie=trie,
            ).last_hidden_state[0, row.parent]
            if trie is not None and not trie.used:
                raise ValueError(f"{self.directory}: its layers do not pass on the trie, so rows cannot be packed")
            values, entropy = chosen_logprobs(self._output_layer, hidden, row.target, row.temperature, self.vocabulary)
        states = None if self.value_head is None else self.value_head(hidden.float())[:, 0]
        return Logprobs(values, entropy, states)

    @contextlib.contextmanager
    def holding(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Compute with other trained weights inside the `with` block: a reference's weights, or weights to publish.

        Args:
            weights: a tensor for each name in `trainable()`.
        """
        if distributed.count() > 1:  # FSDP gathers from its own views of the weights, so write into them
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
            raise FloatingPointError(f"weights are not finite and cannot be published: {', '.join(broken[:5])}")
        return weights

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Overwrite the trained weights.

        Raises:
            ValueError: the names are not exactly those in `trainable()`.
        """
        parameters = self.trainable()
        if set(weights) != set(parameters):
            raise ValueError(f"weights do not fit the model: {sorted(set(weights) ^ set(parameters))[:5]}")
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(spread_like(weights[name], p))

    def load_published(self, directory: Path) -> None:
        """Overwrite the trained weights with a version that `publish.py` wrote."""
        if self.is_adapter:
            stored = load_file(directory / "adapter_model.safetensors")
            with torch.no_grad():
                for name, p in get_peft_model_state_dict(self.model).items():
                    p.copy_(spread_like(stored[name], p))
            return
        stored = load_file(directory / "model.safetensors")
        self.load_weights({name: stored[name] for name in self.trainable()})

    def published_weights(self, directory: Path) -> dict[str, Tensor]:
        """Return a published version's weights by the names in `trainable()`; the policy keeps its own."""
        own = self.snapshot()
        try:
            self.load_published(directory)
            return self.snapshot()
        finally:
            self.load_weights(own)


class _Whole(nn.Module):
    """Everything a forward pass needs as one module: FSDP gathers its weights around `forward`."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model, self.value_head = policy.model, policy.value_head
        self._compute = policy.compute

    def forward(self, row: Row) -> Logprobs:
        return self._compute(row)
