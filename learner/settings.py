"""The learner's settings: one frozen model, filled from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch


class LearnerSettings(BaseModel):
    """How the learner runs on this machine. What it trains is in the run's config, which the server keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    server: str
    """Address of the Upturn server."""
    learner: str = Field(min_length=1, max_length=200)
    """Unique name of this learner: the lease of a run belongs to it, and a restart under the same name resumes it."""
    key: str | None = None
    """API key, if the server requires one."""
    run: str | None = None
    """Train only this run; None takes the oldest waiting run."""
    once: bool = False
    """Exit after one run, or at once if no run waits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; `auto` is CUDA if available."""
    gpu_memory: float | None = Field(default=None, gt=0, lt=1)
    """Maximum share of the GPU's memory; None is no limit."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; None is torch's own default."""
    work_dir: Path = Path("data/learner")
    """Directory of versions and checkpoints; the server must see it under the same path."""
    max_row_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one packed row, which determines the memory of a step; None is 4096 on CUDA, and 2048 on a CPU, where
    more is no faster."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer and compute the rest again in the backward pass: less memory, a quarter
    slower."""
    compile: bool = False
    """Compile the layers (`torch.compile`): the first steps take a minute longer; on a CPU it needs a C++ compiler."""
    liger: bool = False
    """Use Liger's kernels; needs CUDA and the extra `liger`."""
    rehearse: Path | None = None
    """Rehearse the run that this file describes, and exit; the server writes it for `upturn rehearse`."""
    heartbeat_s: float = Field(default=10.0, gt=0)
    """Pause between two heartbeats; well below the server's lease."""
    poll_s: float = Field(default=2.0, gt=0)
    """Pause before asking for a run again."""

    def torch_device(self) -> torch.device:
        """Return the device to train on."""
        import torch  # not at module level: the command line's help must not need it

        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)
