"""The local engine's model: a transformers model whose full weights can be replaced, with LoRA adapters over it.

Used on the thread of `local_worker.py` only. torch is imported when the model is opened.
"""

from __future__ import annotations

from typing import Any

from server.engines.options import LocalOptions
from server.engines.precision import Choice, on_cpu, on_gpu, read_cpuinfo, stored_precision
from server.engines.protocol import Weights
from server.errors import BadRequest, EngineError
from server.models.ends import configured_ends
from server.models.weights import LM_HEAD, read_entries, tied_embedding


class LocalModel:
    """A model in memory: the base or full weights, and the adapters over the base."""

    def __init__(self, options: LocalOptions) -> None:
        self._options = options
        self.tokenizer: Any = None
        self.stop_ids: frozenset[int] = frozenset()
        """Tokens that end an answer."""
        self._model: Any = None
        self._peft: Any = None
        """The model with its adapters; None without adapters."""
        self._adapters: set[int] = set()
        self._active: int | None = None
        """The version that the model computes now; None: unknown."""

    @property
    def device(self) -> Any:
        """The torch device."""
        return self._model.device

    def open(self, base: Weights) -> tuple[int, Choice]:
        """Load the base; return its context in tokens and its compute precision.

        Raises:
            EngineError: the model cannot be loaded.
        """
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM

        device = torch.device(self._options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        setting = self._options.dtype
        try:
            stored = stored_precision(base.path)
            choice = (
                on_gpu(setting, stored, torch.cuda.get_device_capability(device))
                if device.type == "cuda"
                else on_cpu(setting, stored, read_cpuinfo())
            )
            model: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=getattr(torch, choice.precision))
            self._model = model.to(device).eval()
            self.tokenizer = Tokenizer.from_file(str(base.path / "tokenizer.json"))
        except (OSError, ValueError) as error:
            raise EngineError(f"{base.path} cannot be loaded: {error}") from error
        self._model.requires_grad_(False)
        self.stop_ids = configured_ends(base.path)
        longest = int(self._model.config.get_text_config().max_position_embeddings)
        return min(self._options.context_tokens or longest, longest), choice

    def for_version(self, version: int) -> Any:
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

    def replace(self, weights: Weights) -> None:
        """Replace the full weights in place; a wrong name or shape leaves them unchanged.

        Raises:
            BadRequest: `bad_weights`, naming the tensor.
        """
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
        self._active = None

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

    def delete_adapter(self, version: int) -> None:
        """Delete an adapter; unknown versions are ignored."""
        if version not in self._adapters:
            return
        self._adapters.discard(version)
        self._active = None
        if self._adapters:
            self.for_version(next(iter(self._adapters)))
            self._peft.delete_adapter(_name(version))
        else:
            self._model, self._peft = self._peft.unload(), None


def _name(version: int) -> str:
    return f"v{version}"
