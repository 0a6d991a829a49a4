"""The weights of one vLLM: full weights replaced in place, or LoRA adapters next to the base (step 12).

Used by `engine.py`, which starts vLLM again after a failure; this class remembers the last weights that loaded well and
restores them then. `sampling.py` reads which version answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from server.engines.options import VllmOptions
from server.engines.protocol import Weights
from server.engines.vllm.answer import RESTART_S
from server.engines.vllm.command import BASE_MODEL
from server.engines.vllm.http import VllmHttp
from server.errors import Conflict, EngineError, NotFound, UpturnError
from server.models.weights import with_explicit_lm_head

_RESTARTING = "the engine is restarting"


class VllmWeights:
    """Loads and unloads versions, and knows which one answers a request.

    Args:
        options: the engine's options.
        data_dir: holds a copy of the base with an explicit LM head, if vLLM needs one.
        http: the connections to vLLM.
        on_failure: called when a load has left vLLM in an unknown state.
    """

    def __init__(self, options: VllmOptions, data_dir: Path, http: VllmHttp, on_failure: Callable[[], object]) -> None:
        self._options, self._data_dir, self._http, self._on_failure = options, data_dir, http, on_failure
        self.versions: frozenset[int] = frozenset()
        """Versions that can be requested now."""
        self.up = False
        """vLLM is up and holds these weights."""
        self.base: Weights | None = None
        self.full: Weights | None = None
        """The whole model that is served, and that a restart restores."""
        self.adapters: dict[int, Weights] = {}
        self.replacements = 0
        """Number of replacements of full weights, counted from the moment each begins."""
        self.sampling = -1
        """Version of the full weights that sample now; a replacement changes it right before vLLM continues."""
        self.settled = asyncio.Event()
        """Set while no replacement is in progress."""
        self.lock = asyncio.Lock()
        """One load at a time."""
        self._replaced: set[int] = set()
        """Full versions that the present one has replaced."""

    def begin(self, base: Weights, current: Weights) -> None:
        """Set what `restore` loads first.

        Raises:
            Conflict: `current` is an adapter and the engine holds full weights, or the other way around.
        """
        if current.kind == "adapter" and not self._options.lora:
            raise Conflict("this engine was started without adapters")
        if current.kind == "full" and self._options.lora:
            raise Conflict("this engine holds adapters over the base and cannot serve full weights")
        self.base = base
        self.full = base if current.kind == "adapter" else current
        self.adapters = {current.version: current} if current.kind == "adapter" else {}

    async def ready(self, version: int) -> int:
        """Wait for a replacement in progress; return the version that answers a request for `version`.

        Raises:
            EngineError: vLLM is restarting.
            NotFound: the version is not loaded.
        """
        if self.up:
            await self.settled.wait()
        if not self.up or self.full is None:
            raise EngineError(_RESTARTING, retry_after_s=RESTART_S)
        if version in self.versions:
            return version
        if version in self._replaced:
            return self.full.version
        raise NotFound(f"version {version} is not loaded")

    def model_name(self, version: int) -> str:
        """Return the name under which vLLM serves a version."""
        return _adapter_name(version) if version in self.adapters else BASE_MODEL

    async def restore(self) -> None:
        """Load the last good weights into a vLLM that has just come up."""
        assert self.base is not None and self.full is not None
        has_base = self._options.url is None and self.full.version == self.base.version
        if has_base or self._options.lora:
            await self._http.control("POST", "/update_weight_version", {"new_version": str(self.full.version)})
        else:
            await self._replace(self.full, await self._reloadable(self.full))
        for adapter in self.adapters.values():
            await self._add(adapter)

    def serve(self) -> None:
        """Admit requests after `restore`."""
        assert self.full is not None
        self.sampling = self.full.version
        self.versions = frozenset({self.full.version, *self.adapters})
        self.settled.set()
        self.up = True

    async def load(self, weights: Weights) -> None:
        """Load a validated version; a failure leaves the previous weights to be restored."""
        async with self.lock:
            if not self.up:
                raise EngineError(_RESTARTING, retry_after_s=RESTART_S)
            if weights.kind == "adapter":
                await self._load_adapter(weights)
                return
            if self._options.lora:
                raise Conflict("this engine holds adapters over the base, and full weights would replace the base")
            directory = await self._reloadable(weights)
            try:
                await self._replace(weights, directory)
            except (UpturnError, OSError) as error:
                self._on_failure()
                raise EngineError(
                    f"vLLM could not load version {weights.version}: {error}. It restarts with the previous weights",
                    retry_after_s=RESTART_S,
                ) from error
            finally:
                self.settled.set()
            self._replaced = (self._replaced | self.versions) - {weights.version}
            self.full, self.versions = weights, frozenset({weights.version})

    async def unload(self, version: int) -> None:
        """Unload an adapter; answers in progress with it still finish."""
        async with self.lock:
            if self.adapters.pop(version, None) is None:
                return
            self.versions -= {version}
            if self.up:
                await self._http.control("POST", "/v1/unload_lora_adapter", {"lora_name": _adapter_name(version)})

    async def _reloadable(self, weights: Weights) -> Path:
        """Return a directory with these weights and an explicit LM head; only a downloaded base may lack one."""
        into = self._data_dir.absolute() / "base-with-head"
        return await asyncio.to_thread(with_explicit_lm_head, weights.path.absolute(), into)

    async def _replace(self, weights: Weights, directory: Path) -> None:
        """Replace the full weights under a pause. Answers in progress are kept and continue with the new weights."""
        self.settled.clear()
        self.replacements += 1
        await self._http.control("POST", "/pause?mode=keep&clear_cache=true")
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        await self._http.control("POST", "/collective_rpc", reload)
        await self._http.control("POST", "/update_weight_version", {"new_version": str(weights.version)})
        self.sampling = weights.version
        await self._http.control("POST", "/resume")

    async def _load_adapter(self, weights: Weights) -> None:
        if not self._options.lora:
            raise Conflict("this engine was started without adapters")
        if (present := self.adapters.get(weights.version)) is not None:
            if present != weights:
                raise Conflict(f"version {weights.version} is loaded from {present.path}; a version never changes")
            return
        if len(self.adapters) >= self._options.max_cpu_loras:
            raise Conflict(f"the engine holds {len(self.adapters)} adapters, its maximum; unload one first")
        await self._add(weights)
        self.adapters[weights.version] = weights
        self.versions |= {weights.version}

    async def _add(self, weights: Weights) -> None:
        """Load an adapter under its own name; a vLLM at a URL may hold one of that name from an earlier server."""
        name = _adapter_name(weights.version)
        if self._options.url is not None:
            models = await self._http.control("GET", "/v1/models")
            if any(model["id"] == name for model in models["data"]):
                await self._http.control("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        body = {"lora_name": name, "lora_path": str(weights.path.absolute())}
        await self._http.control("POST", "/v1/load_lora_adapter", body)


def _adapter_name(version: int) -> str:
    return f"v{version}"
