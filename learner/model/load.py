"""Loading the weights that a run begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from learner.model.fit import check_model
from learner.model.policy import Policy
from learner.parallel import distributed
from upturn.wire import RunConfig


def load_policy(directory: Path, adapter: Path | None, config: RunConfig, device: torch.device) -> Policy:
    """Load the weights that a run begins with.

    Args:
        directory: full weights.
        adapter: an adapter on them. A run that trains adapters continues to train it; otherwise it is merged.
        config: the run's config; `kind`, `lora_rank`, `lora_alpha` and `seed` matter here.
        device: the device to train on.

    Raises:
        BadModel: the directory does not hold a complete model.
        TooLittleMemory: training would need more memory than is free.
        ValueError: the weights are neither bfloat16 nor float32, or the model cannot be packed into tries.
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
    # Several processes take their parts from a copy on the CPU: the whole model might not fit one device.
    return Policy(model.to(device if distributed.count() == 1 else "cpu").train(), directory, dtype)


def base_dtype(directory: Path) -> torch.dtype:
    """Return the dtype that a directory's config declares; float32 if it declares none.

    Raises:
        ValueError: the dtype is neither bfloat16 nor float32.
    """
    dtype = getattr(AutoConfig.from_pretrained(directory), "dtype", None) or torch.float32
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    if dtype not in (torch.bfloat16, torch.float32):
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
