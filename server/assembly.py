"""Builds the policy from the settings: engine, base model, renderer, and the validation of new weights.

Only this module of engines, models, rendering and placement reads the whole `Settings`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from server.engines.factory import EngineKind, make_engine, vllm_installed
from server.engines.gpus import list_gpus
from server.engines.options import LocalOptions, ScriptedOptions, VllmOptions
from server.engines.protocol import Engine
from server.engines.scripted import SCRIPT, read_script
from server.engines.vllm.command import chosen_precision, is_cpu_build
from server.models.complete import check_complete, check_context
from server.models.context import MEMORY_SHARE, Context, fitting_context, memory_bytes
from server.models.source import resolve_model
from server.models.weights import validate_adapter, validate_full, weights_bytes
from server.placement import Placement, place
from server.rendering.bytes_tokenizer import CHAT_TEMPLATE, END_OF_TURN, BytesTokenizer
from server.rendering.load import load_renderer
from server.rendering.render import Renderer
from server.rendering.template import ChatTemplate
from server.section import SettingsError
from server.settings import Settings

DEFAULT_SCRIPT = {"answers": ["I am the scripted engine: I always say this."]}


@dataclass(frozen=True, slots=True)
class Built:
    """A policy that is ready to start."""

    engine: Engine
    renderer: Renderer
    base: Path
    """Directory of the base model."""
    weights: Literal["full", "adapter"]
    """Kind of weights that are published and swapped."""
    validate: Callable[[Path, str], None]
    """Validates a directory of weights of a kind before the engine sees it; raises BadRequest."""
    placement: Placement = field(default_factory=Placement)


def build_policy(settings: Settings) -> Built:
    """Return the policy that the settings describe.

    It may convert or download the model, so it must not run in the event loop.

    Raises:
        SettingsError: settings contradict each other or the machine's GPUs.
        BadRequest: the model is unavailable or unusable.
    """
    kind = settings.engine.kind
    if kind == "auto":
        kind = "vllm" if vllm_installed() or settings.engine.url else "local"
    weights = _weights_kind(settings, kind)
    data_dir = settings.data_dir.absolute()
    if kind == "scripted":
        return Built(
            _engine(kind, settings, None, lora=weights == "adapter"),
            Renderer(ChatTemplate(BytesTokenizer(), CHAT_TEMPLATE, END_OF_TURN)),
            _script_directory(settings.model, data_dir),
            weights,
            lambda path, _: _check_script(path),
        )
    base = resolve_model(settings.model, (settings.models_dir or data_dir / "models").absolute())
    check_complete(base)
    check_context(base, settings.engine.context_tokens)
    starts_vllm = kind == "vllm" and settings.engine.url is None
    placement = place(list_gpus() if starts_vllm else [], settings.engine, settings.learner, weights_bytes(base))
    if (context := _context(kind, settings, base)) is not None:
        settings = settings.model_copy(
            update={"engine": settings.engine.model_copy(update={"context_tokens": context.tokens})}
        )
        placement = replace(
            placement, message=f"{placement.message}; context {context.tokens} tokens, {context.reason}"
        )
    return Built(
        _engine(kind, settings, placement.engine_gpu, lora=weights == "adapter"),
        load_renderer(base, settings.renderer, settings.model),
        base,
        weights,
        partial(_validate, base, settings.engine.max_lora_rank),
        placement,
    )


def _weights_kind(settings: Settings, kind: EngineKind) -> Literal["full", "adapter"]:
    """Return the kind of weights to swap: by default adapters on a GPU and full weights elsewhere."""
    weights = settings.weights
    if weights == "auto":
        weights = "adapter" if shutil.which("nvidia-smi") is not None and kind != "scripted" else "full"
    for setting, share in (("canary.share", settings.canary.share), ("shadow.share", settings.shadow.share)):
        if weights == "full" and share > 0:
            raise SettingsError(
                f"{setting} needs adapters (weights = adapter): an engine with full weights holds only one version, so "
                "no second version can answer"
            )
    return weights


def _context(kind: EngineKind, settings: Settings, base: Path) -> Context | None:
    """Return the context to serve if the settings do not say it, or None if the engine chooses it: vLLM on a GPU."""
    chosen = settings.engine
    if chosen.context_tokens is not None or chosen.url is not None or (kind == "vllm" and not is_cpu_build()):
        return None
    if kind == "local":
        return fitting_context(base, memory_bytes() // MEMORY_SHARE, 4, cache="memory")
    options = VllmOptions(dtype=chosen.dtype, extra_args=tuple(chosen.extra_args))
    value_bytes = 4 if chosen_precision(options, base).precision == "float32" else 2
    return fitting_context(
        base,
        int(chosen.kv_cache_gib * 2**30),
        value_bytes,
        cache=f"the key-value cache (engine.kv_cache_gib {chosen.kv_cache_gib:g})",
    )


def _engine(kind: EngineKind, settings: Settings, gpu: int | None, *, lora: bool) -> Engine:
    chosen = settings.engine
    return make_engine(
        kind,
        settings.data_dir.absolute(),
        vllm=VllmOptions(
            url=chosen.url,
            dtype=chosen.dtype,
            max_model_len=chosen.context_tokens,
            max_num_seqs=chosen.max_concurrent,
            kv_cache_gib=chosen.kv_cache_gib,
            omp_threads_bind=chosen.cpu_cores,
            gpu_memory_utilization=chosen.gpu_memory,
            gpu=gpu,
            lora=lora,
            max_lora_rank=chosen.max_lora_rank,
            max_loras=chosen.max_adapters,
            max_cpu_loras=2 * chosen.max_adapters,
            env=tuple(chosen.env),
            extra_args=tuple(chosen.extra_args),
        ),
        local=LocalOptions(dtype=chosen.dtype, context_tokens=chosen.context_tokens),
        scripted=ScriptedOptions(context_tokens=chosen.context_tokens or 8192),
    )


def _validate(base: Path, max_rank: int, directory: Path, kind: str) -> None:
    if kind == "adapter":
        validate_adapter(directory, base, max_rank)
    else:
        validate_full(directory, base)


def _script_directory(model: str, data_dir: Path) -> Path:
    """Return the directory of a script: the configured one, or a default one that is written on first use."""
    if (Path(model) / SCRIPT).is_file():
        return Path(model).absolute()
    shipped = data_dir / "models" / "scripted"
    shipped.mkdir(parents=True, exist_ok=True)
    (shipped / SCRIPT).write_text(json.dumps(DEFAULT_SCRIPT))
    return shipped


def _check_script(directory: Path) -> None:
    read_script(directory)
