"""The environment variables of child processes: those on a list, so that secrets stay in the process that needs them.

A server's variables hold its database's password and the keys of judges, and environments run foreign code. Each child
therefore gets what programs generally need, what its own kind needs, and what the settings name for it.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

BASE = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TEMP", "TMP", "XDG_*",
    "PYTHON*", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_*", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "UPTURN_LOG_LEVEL", "UPTURN_LOG_FORMAT",
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
)  # fmt: skip
"""What programs of every kind need."""
THREADS = ("OMP_*", "KMP_*", "GOMP_*", "MKL_*", "OPENBLAS_*", "NUMEXPR_*", "VECLIB_*")
"""How numerical libraries use the CPU."""
COMPUTE = (
    *THREADS, "CUDA_*", "NVIDIA_*", "NCCL_*", "GLOO_*", "TORCH*", "PYTORCH_*", "TRITON_*", "HIP_*", "ROCR_*", "HSA_*",
    "HF_*", "HUGGINGFACE_*", "TRANSFORMERS_*", "TOKENIZERS_*", "SAFETENSORS_*", "MALLOC_*", "CC", "CXX",
)  # fmt: skip
"""How torch and its libraries use the machine, and where model files are."""
HOST = (*THREADS, "CHROMIUM", "PLAYWRIGHT_*", "JAVA_HOME", "MUJOCO_GL", "SDL_*", "PYGAME_*")
"""What environments need."""
SECRET = ("*TOKEN", "*PASSWORD", "*SECRET", "*_KEY", "*CREDENTIALS")
"""Never passed on by a pattern; a setting can name one in full."""


def child_variables(*names: str) -> dict[str, str]:
    """Return the variables of this process that a child gets.

    Args:
        names: the variables that it gets beyond `BASE`; a pattern such as `OMP_*` passes no variable of `SECRET`.
    """
    return {name: value for name, value in os.environ.items() if _passes(name, (*BASE, *names))}


def _passes(name: str, allowed: tuple[str, ...]) -> bool:
    if name in allowed:
        return True
    secret = any(fnmatchcase(name.upper(), pattern) for pattern in SECRET)
    return not secret and any(fnmatchcase(name, pattern) for pattern in allowed)
