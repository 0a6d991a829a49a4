"""Loading the weights that a run begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from learner.checks import BadInput
from learner.model.fit import check_model
from learner.model.policy import Policy
from learner.parallel import distributed
from upturn.wire import RunConfig


def load_policy(
    directory: Path, adapter: Path | None, config: RunConfig, device: torch.device, engine_precision: str | None = None
) -> Policy:
    """Load the weights that a run begins with.

    Args:
        directory: full weights.
        adapter: an adapter on them. A run that trains adapters continues to train it; otherwise it is merged.
        config: the run's config; `kind`, `lora_rank`, `lora_alpha` and `seed` matter here.
        device: the device to train on.
        engine_precision: data type in which the engine computes, and the policy will; None is the base's own.

    Raises:
        BadInput: the engine computes in float16.
        BadModel: the directory does not hold a complete model.
        TooLittleMemory: training would need more memory than is free.
        ValueError: the weights are neither bfloat16 nor float32, or the model cannot be packed into tries.
    """
    precision = None if engine_precision is None else _trainable(engine_precision)
    check_model(directory, config, device, precision)
    torch.manual_seed(config.seed)
    stored = base_dtype(directory, any_dtype=precision is not None)
    precision = precision or stored
    # Float32 weights lose nothing to a float32 engine; a bfloat16 engine rounds them anyway.
    published = torch.bfloat16 if stored == precision == torch.bfloat16 else torch.float32
    full = config.kind != "adapter"
    held = torch.float32 if full else precision
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=held, attn_implementation="sdpa")
    if full and adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    elif adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    elif not full:
        model = with_new_adapter(model, directory, config)
    if full:
        model.requires_grad_(True)
    # Several processes take their parts from a copy on the CPU: the whole model might not fit one device.
    return Policy(model.to(device if distributed.count() == 1 else "cpu").train(), directory, published, precision)


def _trainable(precision: str) -> torch.dtype:
    if precision not in ("bfloat16", "float32"):
        raise BadInput(
            f"the engine computes in {precision}, in which nothing can be trained: start the server with "
            "--engine.dtype bfloat16 or float32"
        )
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def base_dtype(directory: Path, *, any_dtype: bool = False) -> torch.dtype:
    """Return the dtype that a directory's config declares; float32 if it declares none.

    Args:
        directory: a model.
        any_dtype: accept every dtype, since the computation has another.

    Raises:
        ValueError: the dtype is neither bfloat16 nor float32.
    """
    dtype = getattr(AutoConfig.from_pretrained(directory), "dtype", None) or torch.float32
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    if not any_dtype and dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"{directory} is {dtype}; only bfloat16 and float32 can be trained")
    return dtype


def with_new_adapter(model: Any, directory: Path, config: RunConfig) -> PeftModel:
    """Return a model with a new adapter, which changes nothing yet, on all linear layers except the output layer."""
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=cast(int, config.lora_alpha),  # peft multiplies by it; its annotation is too narrow
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(directory),
    )
    return get_peft_model(model, lora)
