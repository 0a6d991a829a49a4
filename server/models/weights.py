"""Reads and validates weights on disk before an engine sees them (before step 12 of the straight line).

vLLM crashes, or silently serves a mixture of old and new weights, when it reloads a directory with a missing or
misshapen tensor, and on a CPU also when a tied LM head has no tensor of its own. So everything is checked here first.
Headers of safetensors files are parsed here and values are read through numpy: no torch, and no copy of the weights in
memory.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import BadRequest

LM_HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|tok_embeddings|word_embeddings|embed_in)\.weight$")
_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
_EXPONENT = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}
_CHUNK_VALUES = 4 * 2**20
_ADAPTER_NAME = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight$")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """The location of one tensor."""

    file: Path
    dtype: str
    """The name in safetensors, such as `BF16`."""
    shape: tuple[int, ...]
    begin: int
    """First byte in the file."""
    end: int
    """One past its last byte."""


def read_entries(directory: Path) -> dict[str, TensorEntry]:
    """Return every tensor of a weights directory, from the headers alone.

    Raises:
        BadRequest: there is no safetensors file, or a file is damaged.
    """
    files = sorted(directory.glob("*.safetensors"))
    index = directory / INDEX
    if index.is_file():
        listed = set(json.loads(index.read_text())["weight_map"].values())
        files = [file for file in files if file.name in listed]
        if missing := listed - {file.name for file in files}:
            raise _bad(f"{index} lists {sorted(missing)}, which {'is' if len(missing) == 1 else 'are'} missing")
    if not files:
        raise _bad(f"{directory} holds no safetensors file")
    entries: dict[str, TensorEntry] = {}
    for file in files:
        for name, entry in _read_header(file).items():
            if name in entries:
                raise _bad(f"{name} is both in {entries[name].file.name} and in {file.name}")
            entries[name] = entry
    return entries


def validate_full(directory: Path, base_directory: Path) -> None:
    """Check full weights against the base: every tensor, its shape, its values, and the LM head.

    Raises:
        BadRequest: `bad_weights`, naming the tensor.
    """
    base, tensors = read_entries(base_directory), read_entries(directory)
    tied = tied_embedding(base)
    expected = {name: entry.shape for name, entry in base.items()}
    if tied is not None:
        expected[LM_HEAD] = base[tied].shape
        if LM_HEAD not in tensors:
            raise _bad(
                f"{directory}: {LM_HEAD} is missing; the base ties it to {tied}, but an engine reloads it only "
                "from a tensor of its own, so write one"
            )
    for name, shape in expected.items():
        if name not in tensors:
            raise _bad(f"{directory}: {name} is missing")
        if tensors[name].shape != shape:
            raise _bad(f"{directory}: {name} has shape {list(tensors[name].shape)}, the base {list(shape)}")
    if extra := sorted(set(tensors) - set(expected)):
        raise _bad(f"{directory}: {extra[0]} is not in the base ({len(extra)} such tensors)")
    for name, entry in tensors.items():
        _check_finite(name, entry)
    if tied is not None and not _equal(tensors[LM_HEAD], tensors[tied]):
        raise _bad(f"{directory}: {LM_HEAD} differs from {tied}, to which the base ties it")


def validate_adapter(directory: Path, base_directory: Path | None = None, max_rank: int | None = None) -> None:
    """Check a LoRA adapter: its configuration, pairs, ranks, values, and (given a base) the shapes it is added to.

    Raises:
        BadRequest: `bad_weights`, naming the tensor.
    """
    config = _read_adapter_config(directory / "adapter_config.json")
    if max_rank is not None and config["r"] > max_rank:
        raise _bad(f"{directory}: rank {config['r']} is above the engine's {max_rank}")
    tensors = read_entries(directory)
    base = None if base_directory is None else read_entries(base_directory)
    sides: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in tensors.items():
        match = _ADAPTER_NAME.match(name)
        if match is None:
            raise _bad(f"{directory}: {name} is not a LoRA matrix of a linear layer")
        sides.setdefault(match["module"], {})[match["side"]] = entry
    for module, pair in sides.items():
        if set(pair) != {"A", "B"}:
            raise _bad(f"{directory}: {module} has only lora_{next(iter(pair))}")
        a, b = pair["A"].shape, pair["B"].shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise _bad(f"{directory}: {module} has lora_A {list(a)} and lora_B {list(b)}, which do not multiply")
        if base is not None:
            under = base.get(f"{module}.weight")
            if under is None:
                raise _bad(f"{directory}: {module} is not in the base")
            if under.shape != (b[0], a[1]):
                raise _bad(f"{directory}: {module} adds [{b[0]}, {a[1]}] to the base's {list(under.shape)}")
    for name, entry in tensors.items():
        _check_finite(name, entry)


def weights_bytes(directory: Path) -> int:
    """Return the size of a model's weights on disk, which they also take in the engine."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def tied_embedding(entries: dict[str, TensorEntry]) -> str | None:
    """Return the embedding that is also the LM head, or None if the LM head has its own tensor."""
    if LM_HEAD in entries:
        return None
    return next((name for name in entries if EMBEDDINGS.search(name)), None)


def with_explicit_lm_head(directory: Path, into: Path) -> Path:
    """Return a directory with the same weights and an explicit LM head: `directory` itself, or `into`, made of links.

    Published weights have an explicit LM head already. A downloaded base with a tied one needs it before it can be
    *re*loaded.
    """
    entries = read_entries(directory)
    tied = tied_embedding(entries)
    if tied is None:
        return directory
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for file in {entry.file for entry in entries.values()}:
        (into / file.name).symlink_to(file.resolve())
    entry = entries[tied]
    header = json.dumps(
        {LM_HEAD: {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [0, entry.end - entry.begin]}}
    ).encode()
    unfinished = into / "lm_head.part"
    with entry.file.open("rb") as source, unfinished.open("wb") as target:
        target.write(len(header).to_bytes(8, "little") + header)
        source.seek(entry.begin)
        left = entry.end - entry.begin
        while left:
            chunk = source.read(min(left, 16 * 2**20))
            target.write(chunk)
            left -= len(chunk)
    os.replace(unfinished, into / "zz_lm_head.safetensors")
    return into


def _read_header(file: Path) -> dict[str, TensorEntry]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length == 0 or 8 + length > size:
            raise _bad(f"{file} is not a complete safetensors file")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise _bad(f"{file} has no readable header: {error}") from error
    entries = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in tensor["data_offsets"])
        if end > size:
            raise _bad(f"{file} is cut off: {name} ends at byte {end} of {size}")
        entries[name] = TensorEntry(file, tensor["dtype"], tuple(tensor["shape"]), begin, end)
    return entries


def _read_adapter_config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _bad(f"{path} cannot be read: {error}") from error
    if config.get("peft_type") != "LORA" or not isinstance(config.get("r"), int):
        raise _bad(f"{path} does not describe a LoRA adapter")
    if config.get("use_dora") or config.get("modules_to_save") or config.get("bias", "none") != "none":
        raise _bad(f"{path}: DoRA, biases and modules_to_save cannot be served")
    return config


def _check_finite(name: str, entry: TensorEntry) -> None:
    """Refuse infinite and NaN values: exactly those have all exponent bits set."""
    import numpy as np

    mask = _EXPONENT.get(entry.dtype)
    if mask is None:
        raise _bad(f"{entry.file}: {name} has dtype {entry.dtype}, not one of {sorted(_EXPONENT)}")
    width = _BYTES[entry.dtype]
    count = (entry.end - entry.begin) // width
    if count == 0:
        return
    values = np.memmap(entry.file, f"<u{width}", mode="r", offset=entry.begin, shape=(count,))
    for first in range(0, count, _CHUNK_VALUES):
        if bool((values[first : first + _CHUNK_VALUES] & mask == mask).any()):
            raise _bad(f"{entry.file}: {name} holds values that are not finite")


def _equal(one: TensorEntry, other: TensorEntry) -> bool:
    """Compare two tensors byte by byte."""
    if one.dtype != other.dtype or one.end - one.begin != other.end - other.begin:
        return False
    left = one.end - one.begin
    with one.file.open("rb") as a, other.file.open("rb") as b:
        a.seek(one.begin)
        b.seek(other.begin)
        while left:
            chunk = a.read(min(left, 16 * 2**20))
            if chunk != b.read(len(chunk)):
                return False
            left -= len(chunk)
    return True


def _bad(message: str) -> BadRequest:
    return BadRequest(message, code="bad_weights")
