"""A plugin that vLLM loads in each of its processes: permission to use AMX, Intel's matrix instructions.

On Linux, a process may use AMX only after asking the kernel; without, the processor raises SIGILL. The attention of
vLLM's CPU build does not ask. With large models oneDNN happens to have asked before; with small ones (a hidden size of
256 was tried) it has no use for AMX itself, and vLLM's worker died at the first bfloat16 request.
"""

from __future__ import annotations

import ctypes
import platform
import sys

SYS_ARCH_PRCTL = 158
"""Number of the system call on x86-64."""
ARCH_REQ_XCOMP_PERM = 0x1023
XFEATURE_XTILEDATA = 18
"""The operation and the feature, as in Linux's Documentation/arch/x86/xstate.rst."""


def request_amx() -> bool:
    """Ask the kernel for permission to use AMX in this process; return whether it gave it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    arguments = (ctypes.c_long(number) for number in (SYS_ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA))
    return bool(ctypes.CDLL(None, use_errno=True).syscall(*arguments) == 0)
