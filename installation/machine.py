"""What a machine can run: whether there are packages for it, and which engine serves on it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass

OLDEST, NEWEST = (3, 11), (3, 14)
TORCH_GLIBC, VLLM_GLIBC, VLLM_CUDA_ARM_GLIBC = (2, 28), (2, 31), (2, 34)
"""The oldest glibc for the wheels of torch and of vLLM's requirements (llguidance; on aarch64 with CUDA tilelang)."""


@dataclass(frozen=True)
class Machine:
    """A machine and the Python on it. Versions are (major, minor)."""

    system: str = "linux"
    processor: str = "x86_64"
    python: tuple[int, int] = (3, 11)
    standard: bool = True
    """CPython with its global lock, which the wheels are built for."""
    bits: int = 64
    glibc: tuple[int, int] | None = (2, 36)
    macos: tuple[int, int] = (14, 0)
    nvidia: bool = False

    def refusal(self) -> str:
        """Return why Upturn cannot be installed here and what to do, or an empty string."""
        version = "{}.{}".format(*self.python)
        if not OLDEST <= self.python <= NEWEST:
            return (
                f"Upturn needs Python 3.11 to 3.14, which torch and vLLM are built for; this is {version}: run it with "
                "another, for example `python3.13 run.py`"
            )
        if not self.standard:
            return "Upturn needs CPython with its global lock, which torch and vLLM are built for"
        if self.bits != 64:
            return "Upturn needs a 64-bit Python; torch has no 32-bit builds"
        if self.system == "win32":
            return "Upturn does not run on Windows itself; run it in WSL 2 (Linux)"
        if self.system == "darwin":
            if self.processor != "arm64":
                return "torch has no builds for Intel Macs; on Apple silicon, use a Python built for arm64"
            if self.macos < (14, 0):
                return "torch needs macOS 14 or newer; this is macOS {}.{}".format(*self.macos)
            return ""
        if self.system != "linux" or self.processor not in ("x86_64", "aarch64"):
            return (
                "torch has builds for Linux (x86-64, aarch64) and macOS (arm64) only; "
                f"this is {self.system} {self.processor}"
            )
        if self.glibc is None:
            return "torch has no builds for musl (Alpine); use a distribution with glibc, such as Debian"
        if self.glibc < TORCH_GLIBC:
            return "torch needs glibc 2.28 or newer; this is {}.{}".format(*self.glibc)
        return ""

    def accelerator(self, wanted: str) -> str:
        """Return "cuda" or "cpu". `wanted` is the value of ACCELERATOR; without it, an NVIDIA driver decides.

        Raises:
            ValueError: if it is neither, or this machine cannot have it.
        """
        if wanted not in ("", "cpu", "cuda"):
            raise ValueError(f"ACCELERATOR={wanted}: it must be cpu or cuda")
        if wanted == "cuda" and self.system != "linux":
            raise ValueError("ACCELERATOR=cuda: CUDA needs Linux")
        return wanted or ("cuda" if self.nvidia and self.system == "linux" else "cpu")

    def has_vllm(self, accelerator: str) -> bool:
        """Whether vLLM has a build for this machine; otherwise the in-process engine serves."""
        oldest = VLLM_CUDA_ARM_GLIBC if (self.processor, accelerator) == ("aarch64", "cuda") else VLLM_GLIBC
        return self.system == "linux" and self.glibc is not None and self.glibc >= oldest


def this_machine() -> Machine:
    """Look at the machine that this process runs on."""
    implementation = sys.implementation.name
    return Machine(
        system=sys.platform,
        processor=platform.machine(),
        python=sys.version_info[:2],
        standard=implementation == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED"),
        bits=64 if sys.maxsize > 2**32 else 32,
        glibc=_glibc(),
        macos=_two(platform.mac_ver()[0] or "0.0"),
        nvidia=shutil.which("nvidia-smi") is not None,
    )


def _glibc() -> tuple[int, int] | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (AttributeError, OSError, ValueError):  # Windows, macOS, musl
        return None
    return _two(version) if name == "glibc" else None


def _two(version: str) -> tuple[int, int]:
    major, minor = [*version.split("."), "0"][:2]
    return int(major), int(minor)
