"""The GPUs of this machine, and which of them a child process sees."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from env_adapters.child_variables import child_variables


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this machine."""

    index: int
    name: str
    total_bytes: int


def list_gpus() -> list[Gpu]:
    """Return this machine's GPUs from its driver, restricted to `CUDA_VISIBLE_DEVICES`; [] without a driver."""
    listed = read_gpus(_ask_driver("index,name,memory.total"))
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [gpu for gpu in listed if str(gpu.index) in allowed] if all(map(str.isdecimal, allowed)) else listed


def compute_capability(index: int | None) -> tuple[int, int] | None:
    """Return a GPU's compute capability, or the lowest of the visible GPUs; None if the driver reports none."""
    found = read_capabilities(_ask_driver("index,compute_cap"))
    if index is not None:
        return found.get(index)
    seen = {gpu.index for gpu in list_gpus()}
    return min((capability for number, capability in found.items() if number in seen), default=None)


def _ask_driver(fields: str) -> str:
    """Return `nvidia-smi`'s listing of the GPUs, one line for each; empty without a driver that answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    done = subprocess.run(
        [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=child_variables("CUDA_*", "NVIDIA_*"),
    )
    return "" if done.returncode else done.stdout


def read_capabilities(listing: str) -> dict[int, tuple[int, int]]:
    """Parse `nvidia-smi`'s listing of index and compute capability, such as `0, 7.5`."""
    found = {}
    for line in listing.splitlines():
        index, _, capability = line.partition(", ")
        major, _, minor = capability.strip().partition(".")
        if index.isdecimal() and major.isdecimal() and minor.isdecimal():
            found[int(index)] = (int(major), int(minor))
    return found


def read_gpus(listing: str) -> list[Gpu]:
    """Parse `nvidia-smi`'s listing: one line for each GPU with index, name, and memory in MiB."""
    lines = [line.split(", ") for line in listing.splitlines() if line.count(", ") == 2]
    return [Gpu(int(index), name, int(mib) * 2**20) for index, name, mib in lines if mib.strip().isdecimal()]


def visible(*gpus: int) -> dict[str, str]:
    """Return the environment variables that restrict a process to these GPUs; {} without GPUs."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if gpus else {}
