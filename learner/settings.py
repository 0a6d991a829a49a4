"""The learner's settings: one frozen model, filled from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field


class LearnerSettings(BaseModel):
    """Where the learner works; what it trains is the run's config, which the server keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    server: str
    """Address of the Upturn server."""
    learner: str = Field(min_length=1, max_length=200)
    """Unique name of this learner; it holds the lease of its run, and a restart under the same name takes it back."""
    key: str | None = None
    """API key, where the server wants one."""
    run: str | None = None
    """Only this run; None takes the oldest that waits."""
    once: bool = False
    """End after one run, or at once where none waits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; `auto` is CUDA where there is one."""
    gpu_memory: float | None = Field(default=None, gt=0, lt=1)
    """Share of the GPU's memory to take at most; None is no bound."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; None is torch's own choice."""
    work_dir: Path = Path("data/learner")
    """Versions and checkpoints; the server must see it under the same path."""
    max_row_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one packed row, which decides the memory of a step; None is 4096 on CUDA, and 2048 on a CPU, where more
    is no faster."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer and compute the rest again on the way back: less memory, a quarter slower."""
    compile: bool = False
    """Compile the layers (`torch.compile`): the first steps take a minute longer; a CPU needs a C++ compiler for it."""
    liger: bool = False
    """Liger's kernels; needs CUDA and the extra `liger`."""
    heartbeat_s: float = Field(default=10.0, gt=0)
    """Pause between two heartbeats; well below the server's lease."""
    poll_s: float = Field(default=2.0, gt=0)
    """Pause before asking again for a run."""

    def torch_device(self) -> torch.device:
        """Return the device to train on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)
