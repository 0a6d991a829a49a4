"""Describes the machine on which a figure was measured."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path


def machine() -> str:
    """Return cores, processor, GPU (if any) and Python version as text."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    words = [f"{os.cpu_count()} cores", processor]
    if shutil.which("nvidia-smi"):
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
        words += asked.stdout.split("\n")[:1]
    return ", ".join([*words, f"Python {platform.python_version()}"])
